// Weights of eight bits: each row (output) of a matrix has a scale, the largest magnitude of its weights over
// 127, and a weight is the scale times an integer of [-127, 127].
#pragma once

#include "base/worker_pool.h"
#include "perceiver/experimental/tensor.h"

namespace perceiver {

/// Weights of fewer bits: bf16 or i8, the latter with a scale for each row.
struct NarrowWeight {
  Tensor values = {};  ///< [rows, columns]
  Tensor scale = {};   ///< i8: f32 [rows]
};

/// Rounds each row of `weight` (f32 [rows, columns], on the CPU) to scale * integer, the integer to nearest,
/// ties to even, in place and as `narrow` (i8). Throws `user` for weights that are not finite.
void quantize_rows(WorkerPool& workers, const Tensor& weight, const NarrowWeight& narrow);

}  // namespace perceiver
