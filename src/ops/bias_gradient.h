// What the backward of a linear layer wants to know of its result's gradient.
#pragma once

#include "perceiver/experimental/ops.h"

namespace perceiver::ops {

/// A bias without an activation is what wants the column sums of its result's gradient
/// (Variable::wants_column_sums).
inline bool wants_column_sums(const LinearParameters& parameters) {
  return parameters.bias.gradient != nullptr;
}

}  // namespace perceiver::ops
