// Sorting row numbers by id.
#pragma once

#include <cstdint>

#include "perceiver/experimental/launch.h"

namespace perceiver::kernels::cuda {

/// Rows 0 to rows - 1 with ids[row * id_stride] in [0, table_rows); both counts below 2^31.
struct RowIds {
  int64_t rows, table_rows;
  const int32_t* ids;
  int64_t id_stride;
};

/// order [rows] = row numbers, at least one, sorted stably by id; present [table_rows] = 0 where no row has
/// the id, else nonzero (null: not wanted). Uses the workspace.
void sort_rows(const Launch& launch, const RowIds& ids, int32_t* order, int32_t* present);

}  // namespace perceiver::kernels::cuda
