// From token ids and positions to rows: embeddings, rotary position encoding, several latents per position.
// Part of the interface in kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace perceiver::kernels {

inline constexpr int kMaxTables = 9;  // tokens and up to eight position axes

/// out [rows, columns] = sum over tables t of table_t[ids_t[row * id_stride_t]].
struct Embedding {
  DType type;
  int64_t rows, columns;
  int tables;
  const void* table[kMaxTables] = {};
  const int32_t* ids[kMaxTables] = {};
  int64_t id_stride[kMaxTables] = {};
  void* out;
};

/// d_table [table_rows, columns] (+)= sum of the rows of d_out by id, in a fixed order. `scratch` holds
/// table_rows + 1 + rows int32.
struct EmbeddingBackward {
  DType type;
  int64_t rows, columns, table_rows;
  const int32_t* ids;
  int64_t id_stride;
  const void* d_out;
  void* d_table;
  bool accumulate = false;
  int32_t* scratch;
};

/// Rotates in place the first 2 * bands channels of the first `heads` heads of every row by the angles of the
/// row's position, in interleaved pairs. Row r starts at x + r * row_stride, head h at + h * head_dim. Tables
/// are [positions, bands] in the accumulation type, indexed by |position|; `direction` is -1 for the inverse.
struct Rotary {
  DType type;
  int64_t rows, row_stride, heads, head_dim, bands;
  void* x;
  const int32_t* positions;  // [rows]
  const void* cosine;
  const void* sine;
  int direction = 1;
};

/// y [rows * copies, columns]: row r * copies + c = x[r] + encoding[c] (docs/model.md, "Aligned latents").
struct RepeatRows {
  DType type;
  int64_t rows, copies, columns;
  const void* x;
  const void* encoding;
  void* y;
};

/// d_x (+)= sums over copies; d_encoding (+)= sums over rows. Either may be null.
struct RepeatRowsBackward {
  DType type;
  int64_t rows, copies, columns;
  const void* d_y;
  void* d_x = nullptr;
  bool accumulate_x = false;
  void* d_encoding = nullptr;
  bool accumulate_encoding = false;
};

/// y [rows, columns] = mean of each group of `copies` rows of x [rows * copies, columns].
struct AverageRows {
  DType type;
  int64_t rows, copies, columns;
  const void* x;
  void* y;
};

/// d_x [rows * copies, columns] (+)= d_y / copies.
struct AverageRowsBackward {
  DType type;
  int64_t rows, copies, columns;
  const void* d_y;
  void* d_x;
  bool accumulate = false;
};

/// target[row[r]] = x[r] for each r whose row is not negative; x and target have `columns` columns. No two
/// rows are the same.
struct PlaceRows {
  DType type;
  int64_t rows, columns;
  const void* x;
  const int32_t* row;  // [rows]
  void* target;
};

/// The backward of PlaceRows: d_x[r] (+)= d_target[row[r]], which then becomes 0; 0 for a negative row. d_x
/// may be null.
struct TakeRows {
  DType type;
  int64_t rows, columns;
  const int32_t* row;
  void* d_target;
  void* d_x = nullptr;
  bool accumulate = false;
};

PERCEIVER_KERNEL(embedding, Embedding)
PERCEIVER_KERNEL(embedding_backward, EmbeddingBackward)
PERCEIVER_KERNEL(rotary, Rotary)
PERCEIVER_KERNEL(repeat_rows, RepeatRows)
PERCEIVER_KERNEL(repeat_rows_backward, RepeatRowsBackward)
PERCEIVER_KERNEL(average_rows, AverageRows)
PERCEIVER_KERNEL(average_rows_backward, AverageRowsBackward)
PERCEIVER_KERNEL(place_rows, PlaceRows)
PERCEIVER_KERNEL(take_rows, TakeRows)

}  // namespace perceiver::kernels
