// The projection of tables (docs/projection.md).
#pragma once

#include <span>
#include <vector>

#include "perceiver/experimental/ops.h"

namespace perceiver::ops {

/// A rotation fused into another operation.
struct RotaryUse {
  RotaryTable table;
  int64_t head_dim = 0;
  Tensor positions;  ///< i32 [rows]
};

/// x minus its row means. A constant if x is.
Variable center_rows(Tape& tape, const Variable& x);

/// x [rows, columns] with column c multiplied by scale[c].
Variable scale_columns(Tape& tape, const Variable& x, const Variable& scale);

/// LayerNorm's 1 / sqrt(variance + 1e-5) of each sum of looked-up rows, [rows], given that all table rows
/// have mean 0. `examples`: see kernels::ProjectedRows.
Variable sum_rstd(Tape& tape, std::span<const Lookup> centred, int64_t rows, int64_t examples);

/// Projected tables, in the accumulation type, with both `rstd` [rows] and `offset` [1, columns] or neither.
struct ProjectedTables {
  std::vector<Lookup> terms;
  Variable rstd = {}, offset = {};
};

/// [rows, columns] of `type`: rotated(rstd * sum of the looked-up rows + offset), rounded once
/// (docs/projection.md). A rotation excludes rstd; its first head is at column 0.
Variable projected_rows(Tape& tape, const ProjectedTables& tables, const RotaryUse& rotary, int64_t rows,
                        int64_t examples, DType type);

}  // namespace perceiver::ops
