// What the kernels that quantise to 8 bits share.
#pragma once

#include <cuda_fp8.h>

#include "kernels/cuda/support/common.cuh"

namespace perceiver::kernels::cuda {

/// Four numbers times `scale`, not a number where they are not finite: a clamped infinity would go unnoticed
/// (y * 0 is 0 or not a number).
template <__nv_fp8_interpretation_t kFormat>
__device__ inline uint32_t encode(const float* y, float scale) {
  const auto pair = [&](int i) -> uint32_t {
    return __nv_cvt_float2_to_fp8x2({fmaf(y[i], 0.0f, y[i] * scale), fmaf(y[i + 1], 0.0f, y[i + 1] * scale)},
                                    __NV_SATFINITE, kFormat);
  };
  return pair(0) | pair(2) << 16;
}

/// Column `column` (0 to 3) of four rows in a word, each of whose words has 4 neighbouring columns.
__device__ inline uint32_t column_word(const uint32_t* rows, int column) {
  const uint32_t selector = static_cast<uint32_t>(column | (4 + column) << 4);  // the byte of two rows
  return __byte_perm(__byte_perm(rows[0], rows[1], selector), __byte_perm(rows[2], rows[3], selector),
                     0x5410);
}

/// Codes of 4 neighbouring rows, in each 4 neighbouring columns in a word.
using Codes = uint32_t[4][2];

/// The same of column `column` (0 to 7).
__device__ inline uint32_t transposed_word(const Codes& codes, int column) {
  const int half = column / 4;
  const uint32_t rows[] = {codes[0][half], codes[1][half], codes[2][half], codes[3][half]};
  return column_word(rows, column % 4);
}

/// *largest = max(*largest, most), for 0 and positive numbers, which are ordered like their bits. The read
/// spares most callers the atomic.
__device__ inline void raise(float* largest, float most) {
  if (most > *static_cast<volatile float*>(largest))
    atomicMax(reinterpret_cast<int*>(largest), __float_as_int(most));
}

}  // namespace perceiver::kernels::cuda
