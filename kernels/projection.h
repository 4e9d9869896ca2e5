// Keys and values from projected tables (docs/projection.md). Part of the interface in kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/embedding.h"

namespace perceiver::kernels {

/// For each row, rows of tables that are to be summed: row r takes table_t[ids_t[r * id_stride_t]] of each.
struct TableRows {
  int tables = 0;
  const void* table[kMaxTables] = {};
  const int32_t* ids[kMaxTables] = {};
  int64_t id_stride[kMaxTables] = {};
};

/// What the kernel `rotary` does to rows, as part of another kernel; none where `bands` is 0.
struct Rotation {
  int64_t heads = 0, head_dim = 0, bands = 0;
  const int32_t* positions = nullptr;  // [rows]
  const void* cosine = nullptr;        // [positions, bands], accumulation type
  const void* sine = nullptr;
};

/// Keys and values from projected tables (docs/projection.md): out [rows, columns] = rotated(rstd[row] * sum
/// of table rows + offset), rounded once. Tables, rstd (null: 1) and offset (null: 0) are in the accumulation
/// type. `examples` divides the rows into as many stretches, whose rows of equal place tend to share table
/// rows.
struct ProjectedRows {
  DType type;
  int64_t rows, columns, examples;
  TableRows terms;
  const void* rstd;    // [rows]
  const void* offset;  // [columns]
  Rotation rotation;
  void* out;
};

/// d_table [table_rows, columns] (+)= sum by id of rstd[row] * unrotated(d_out[row]), in a fixed order, for
/// one of the tables. What d_out holds may be lost where there is a rotation. `scratch` as for
/// EmbeddingBackward.
struct ProjectedRowsBackward {
  DType type;
  int64_t rows, columns, table_rows;
  const int32_t* ids;
  int64_t id_stride;
  const void* rstd;
  Rotation rotation;
  void* d_out;
  void* d_table;
  bool accumulate;
  int32_t* scratch;
};

/// d_rstd [rows] (+)= d_out[row] · sum of table rows; d_offset [columns] (+)= column sums of d_out (null: not
/// wanted). Only without a rotation.
struct ProjectedScaleBackward {
  DType type;
  int64_t rows, columns, examples;
  TableRows terms;
  const void* d_out;
  void* d_rstd;
  bool accumulate_rstd;
  void* d_offset;
  bool accumulate_offset;
};

/// rstd[row] = 1 / sqrt(mean of squares of the sum of table rows + 1e-5): LayerNorm's factor, where each
/// table's rows have mean 0.
struct SumRstd {
  DType type;
  int64_t rows, columns, examples;
  TableRows terms;
  void* rstd;
};

/// d_table [table_rows, columns] of table number `table` (+)= sum by id of -rstd^3 * d_rstd / columns * (the
/// sum of table rows), in a fixed order. `scratch` as for EmbeddingBackward.
struct SumRstdBackward {
  SumRstd forward;
  const void* d_rstd;
  int table;
  int64_t table_rows;
  void* d_table;
  bool accumulate;
  int32_t* scratch;
};

/// y [rows, columns] (+)= x less its rows' means; its own backward. y may be x (without accumulate).
struct CenterRows {
  DType type;
  int64_t rows, columns;
  const void* x;
  void* y;
  bool accumulate;
};

/// y [rows, columns] = x, column c times scale[c].
struct ScaleColumns {
  DType type;
  int64_t rows, columns;
  const void* x;
  const void* scale;
  void* y;
};

/// d_x (+)= d_y times scale; d_scale (+)= column sums of d_y * x. Either may be null.
struct ScaleColumnsBackward {
  DType type;
  int64_t rows, columns;
  const void* x;
  const void* scale;
  const void* d_y;
  void* d_x;
  bool accumulate_x;
  void* d_scale;
  bool accumulate_scale;
};

PERCEIVER_KERNEL(projected_rows, ProjectedRows)
PERCEIVER_KERNEL(projected_rows_backward, ProjectedRowsBackward)
PERCEIVER_KERNEL(projected_scale_backward, ProjectedScaleBackward)
PERCEIVER_KERNEL(sum_rstd, SumRstd)
PERCEIVER_KERNEL(sum_rstd_backward, SumRstdBackward)
PERCEIVER_KERNEL(center_rows, CenterRows)
PERCEIVER_KERNEL(scale_columns, ScaleColumns)
PERCEIVER_KERNEL(scale_columns_backward, ScaleColumnsBackward)

}  // namespace perceiver::kernels
