// TMA descriptors (tensor maps).
#pragma once

#include <cuda.h>

#include <cstdint>

namespace perceiver::kernels::cuda::hopper {

/// A bf16 matrix [batch, rows, columns], `stride` elements from row to row, read in boxes of 64 columns and
/// `box_rows` rows (up to 256) of one example, swizzled by 128 bytes. `data` and rows are aligned to 16
/// bytes. Examples are `rows` rows apart, or `pitch`.
CUtensorMap tensor_map(const void* data, int64_t batch, int64_t rows, int64_t columns, int64_t stride,
                       int64_t box_rows, int64_t pitch = 0);

/// A bf16 matrix [batch, rows, heads, width], `stride` elements from row to row, read in boxes of 64 columns
/// of one head and `box_rows` rows of one example, swizzled by 128 bytes: columns from `width` on are zeros.
/// `data`, rows and heads are aligned to 16 bytes.
CUtensorMap heads_tensor_map(const void* data, int64_t batch, int64_t rows, int64_t heads, int64_t width,
                             int64_t stride, int64_t box_rows);

/// Bytes [batch, rows, columns] without gaps in a row, examples `pitch` rows apart, in boxes of 64 columns
/// and `box_rows` rows, swizzled by 64 bytes.
CUtensorMap narrow_tensor_map(const void* data, int64_t batch, int64_t rows, int64_t columns,
                              int64_t box_rows, int64_t pitch);

/// A matrix [rows, columns] of bytes without gaps, in boxes of 128 columns.
CUtensorMap byte_tensor_map(const void* data, int64_t rows, int64_t columns, int64_t box_rows);

}  // namespace perceiver::kernels::cuda::hopper
