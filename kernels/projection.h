// Keys and values from projected tables (docs/projection.md). Part of the interface in kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/embedding.h"

namespace perceiver::kernels {

/// The table rows to sum for each row: row r takes table_t[ids_t[r * id_stride_t]] of each table, which has
/// table_rows_t of them.
struct TableRows {
  int tables = 0;
  const void* table[kMaxTables] = {};
  const int32_t* ids[kMaxTables] = {};
  int64_t id_stride[kMaxTables] = {};
  int64_t table_rows[kMaxTables] = {};
};

/// The rotation of kernels::Rotary fused into another kernel; none if `bands` is 0.
struct Rotation {
  int64_t heads = 0, head_dim = 0, bands = 0;
  const int32_t* positions = nullptr;  // [rows]
  const void* cosine = nullptr;        // [positions, bands], accumulation type
  const void* sine = nullptr;
};

/// Keys and values from projected tables (docs/projection.md): out [rows, columns] = rotated(rstd[row] * sum
/// of table rows + offset), rounded once. Tables, rstd (null: 1) and offset (null: 0) are in the accumulation
/// type. The rows are `examples` runs of equal length; rows at the same place of different runs tend to share
/// table rows.
struct ProjectedRows {
  DType type;
  int64_t rows, columns, examples;
  TableRows terms;
  const void* rstd = nullptr;    // [rows]
  const void* offset = nullptr;  // [columns]
  Rotation rotation = {};
  void* out;
};

/// For one of the tables: d_table [table_rows, columns] (+)= sum by id of rstd[row] * unrotated(d_out[row]),
/// in a fixed order. With a rotation d_out may be overwritten. `scratch` as for EmbeddingBackward.
struct ProjectedRowsBackward {
  DType type;
  int64_t rows, columns, table_rows;
  const int32_t* ids;
  int64_t id_stride;
  const void* rstd = nullptr;
  Rotation rotation = {};
  void* d_out;
  void* d_table;
  bool accumulate = false;
  int32_t* scratch;
};

/// d_rstd [rows] (+)= d_out[row] · sum of table rows; d_offset [columns] (+)= column sums of d_out (null: not
/// wanted). Without a rotation only.
struct ProjectedScaleBackward {
  DType type;
  int64_t rows, columns, examples;
  TableRows terms;
  const void* d_out;
  void* d_rstd;
  bool accumulate_rstd = false;
  void* d_offset = nullptr;
  bool accumulate_offset = false;
};

/// rstd[row] = 1 / sqrt(mean square of the sum of table rows + 1e-5): LayerNorm's rstd, given that all table
/// rows have mean 0.
struct SumRstd {
  DType type;
  int64_t rows, columns, examples;
  TableRows terms;
  void* rstd;
};

/// d_table [table_rows, columns] of table `table` (+)= sum by id of -rstd^3 * d_rstd / columns * (sum of
/// table rows), in a fixed order. `scratch` as for EmbeddingBackward.
struct SumRstdBackward {
  SumRstd forward;
  const void* d_rstd;
  int table;
  int64_t table_rows;
  void* d_table;
  bool accumulate = false;
  int32_t* scratch;
};

/// y [rows, columns] (+)= x minus its row means; its own backward. y may be x (without accumulate).
struct CenterRows {
  DType type;
  int64_t rows, columns;
  const void* x;
  void* y;
  bool accumulate = false;
};

/// y [rows, columns] = x with column c multiplied by scale[c].
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
  void* d_x = nullptr;
  bool accumulate_x = false;
  void* d_scale = nullptr;
  bool accumulate_scale = false;
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
