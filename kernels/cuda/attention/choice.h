// Which attention kernels `automatic` stands for.
#pragma once

#include "kernels/attention.h"

namespace perceiver::kernels::cuda {

/// What attention() and attention_backward() would run on the current device, which has `sm_count` SMs:
/// never `automatic`.
struct AttentionChoice {
  AttentionKernel forward, backward;
};
AttentionChoice attention_choice(const AttentionBackward& arguments, int sm_count);

}  // namespace perceiver::kernels::cuda
