// Sums of rows by id: a stable counting sort by id, then every table row sums its own rows in order, so that
// the result does not depend on the number of threads.
#pragma once

#include <algorithm>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/row.h"
#include "kernels/elementwise.h"

namespace perceiver::kernels::cpu {

/// Rows r = 0 .. rows - 1 with ids[r * id_stride] in [0, table_rows); `scratch` holds table_rows + 1 + rows.
struct Segments {
  int64_t rows, table_rows;
  const int32_t* ids;
  int64_t id_stride;
  int32_t* scratch;
};

/// table [table_rows, columns] (+)= what add(row, sum) adds to `sum` for each row of an id.
template <typename T, typename Add>
void sum_segments(const Segments& s, int64_t columns, T* table, bool accumulate, Add&& add) {
  int32_t* starts = s.scratch;
  int32_t* order = s.scratch + s.table_rows + 1;
  std::fill_n(starts, s.table_rows + 1, 0);
  for (int64_t r = 0; r < s.rows; ++r) ++starts[s.ids[r * s.id_stride] + 1];
  for (int64_t i = 0; i < s.table_rows; ++i) starts[i + 1] += starts[i];
  for (int64_t r = 0; r < s.rows; ++r) order[starts[s.ids[r * s.id_stride]]++] = static_cast<int32_t>(r);
  // `starts[i]` is now the end of segment i.
  parallel_items((s.table_rows + 7) / 8, [&](int64_t group) {
    for (int64_t id = group * 8; id < std::min(s.table_rows, group * 8 + 8); ++id) {
      Row<T> sum(table + id * columns, columns);
      if (!accumulate) sum.setZero();
      for (int32_t i = id == 0 ? 0 : starts[id - 1]; i < starts[id]; ++i) add(order[i], sum);
    }
  });
}

}  // namespace perceiver::kernels::cpu
