// The fused decode step (kernels/decode.h) for a model with its caches and slots.
#pragma once

#include <memory>
#include <vector>

#include "kernels/decode.h"
#include "model/decode_caches.h"

namespace perceiver {

/// The arguments, everything they point to on the host, and the kernel's workspace.
struct FusedStep {
  kernels::DecodeStep step;
  std::vector<kernels::DecodeCross> cross;
  std::vector<kernels::DecodeSelf> self;
  std::vector<int64_t> cross_after;
  Tensor workspace;
};

/// Enqueues the step; `logits` [S, V] f32 gets the rows of the active slots, those of others are unspecified.
void run_fused(Tape& tape, const FusedStep& fused, const Tensor& logits);

}  // namespace perceiver
