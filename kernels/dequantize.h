// Weights of eight bits, with a scale for each row. Part of the interface in kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace perceiver::kernels {

/// Whether a type of weights has eight bits, and a scale for each row.
constexpr bool is_narrow(DType type) {
  return type == DType::i8 || type == DType::e4m3;
}

/// Where a GPU keeps the scales, f32 [rows]: bytes from the start of the weight [rows, columns].
constexpr int64_t narrow_scale_offset(int64_t rows, int64_t columns) {
  return (rows * columns + 15) / 16 * 16;
}

/// out [rows, columns] of `type` = weight * scale of its row, a product in f32, rounded to `type`.
struct Dequantize {
  DType type, weight_type;  // weight_type: i8 or e4m3
  int64_t rows, columns;
  const void* weight;
  const void* scale;  // f32 [rows]
  void* out;
};

PERCEIVER_KERNEL(dequantize, Dequantize)

}  // namespace perceiver::kernels
