// The fused decode step (kernels/decode.h) for a model with its caches and slots.
#pragma once

#include <compare>
#include <memory>
#include <vector>

#include "kernels/decode.h"
#include "model/decode_caches.h"

namespace perceiver {

/// Successive slots: [first, first + count).
struct SlotRange {
  int64_t first = 0, count = 0;
  auto operator<=>(const SlotRange&) const = default;
};

/// The arguments, everything they point to on the host, and the kernel's workspace.
struct FusedStep {
  SlotRange slots;
  kernels::DecodeStep step;
  std::vector<kernels::DecodeCross> cross;
  std::vector<kernels::DecodeSelf> self;
  std::vector<int64_t> cross_after;
  Tensor workspace;
};

/// Enqueues the step. `logits` [S, V] f32, of all slots of the caches, gets the rows of the step's active
/// slots; those of its other slots are unspecified.
void run_fused(Tape& tape, const FusedStep& fused, const Tensor& logits);

}  // namespace perceiver
