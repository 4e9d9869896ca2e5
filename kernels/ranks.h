// What the ranks of a run tell each other, in device memory. Part of the interface in
// kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/optimizer.h"

namespace perceiver::kernels {

/// scalars->loss_scale = `mean` ? 1 / max(1, *targets) : 1 / sharing. `targets` was summed over the ranks,
/// where the `sharing` ranks of a context group count the same targets each: then the gradients of all ranks
/// add up to that of the mean, or of the sum, over all examples.
struct SharedLossScale {
  const double* targets;
  bool mean;
  double sharing;
  StepScalars* scalars;
};

/// totals[0..5) = loss_totals, totals[5] = sum of the `count` squared norms, in order.
struct PackTotals {
  const double* loss_totals;    // [5]
  const double* squared_norms;  // [count]
  int64_t count;
  double* totals;  // [6]
};

/// sum = sum of `count` pieces of `elements` each, in their order. Piece `own` is in `sum`; `others` has the
/// rest, one after the other, and does not overlap it. f32 or f64.
struct SumPieces {
  DType type;
  int64_t elements;
  int64_t own, count;
  const void* others;
  void* sum;
};

PERCEIVER_KERNEL(shared_loss_scale, SharedLossScale)
PERCEIVER_KERNEL(pack_totals, PackTotals)
PERCEIVER_KERNEL(sum_pieces, SumPieces)

}  // namespace perceiver::kernels
