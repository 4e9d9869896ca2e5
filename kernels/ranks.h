// What the ranks of a run tell each other about a step, in device memory. Part of the interface in
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

PERCEIVER_KERNEL(shared_loss_scale, SharedLossScale)
PERCEIVER_KERNEL(pack_totals, PackTotals)

}  // namespace perceiver::kernels
