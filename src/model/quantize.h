// Weights of eight bits: each row (output) of a matrix has a scale, the largest magnitude of its weights over
// the largest number of the type, 127 or 448, and a weight is the scale times a number of the type: an
// integer of [-127, 127] (i8), or floating point of eight bits (e4m3).
#pragma once

#include "base/worker_pool.h"
#include "perceiver/experimental/tensor.h"

namespace perceiver {

/// Weights of fewer bits: bf16, i8 or e4m3, the last two with a scale for each row.
struct NarrowWeight {
  Tensor values = {};  ///< [rows, columns]
  Tensor scale = {};   ///< i8, e4m3: f32 [rows]
};

/// Memory for weights of eight bits; on a GPU the scales follow the weights (kernels/dequantize.h).
NarrowWeight allocate_narrow(DeviceContext& context, DType type, const Shape& shape);

/// Rounds each row of `weight` (f32 [rows, columns], on the CPU) to scale * number, the number to nearest,
/// ties to even, in place and as `narrow` (i8 or e4m3). Throws `user` for weights that are not finite.
void quantize_rows(WorkerPool& workers, const Tensor& weight, const NarrowWeight& narrow);

}  // namespace perceiver
