// Attention whose keys are spread over ranks: gathering and joining what each of them computes.
#pragma once

#include <functional>

#include "perceiver/experimental/ops.h"

namespace perceiver {
class Communicator;
}

namespace perceiver::ops {

/// `out` [rows, heads * head_dim] and `lse` [batch, heads, queries] (accumulation type) of attention over the
/// keys of all ranks of `group`, the same bits on each. `part` launches attention over this rank's keys, to
/// contiguous memory for its out and its lse.
void join_parts(Tape& tape, Communicator& group, const Tensor& out, const Tensor& lse,
                const std::function<void(void*, void*)>& part);

}  // namespace perceiver::ops
