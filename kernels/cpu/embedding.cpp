// Sums of table rows, and their backward: rows are sorted by id (a stable counting sort), then each table row
// sums its own rows in their order, so that the result does not depend on the number of threads.
#include <algorithm>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/row.h"
#include "kernels/kernels.h"

namespace perceiver::kernels::cpu {
namespace {

template <typename T>
void gather(const Embedding& k) {
  parallel_for(k.rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      Row<T> out(static_cast<T*>(k.out) + r * k.columns, k.columns);
      for (int t = 0; t < k.tables; ++t) {
        const ConstRow<T> entry(static_cast<const T*>(k.table[t]) + k.ids[t][r * k.id_stride[t]] * k.columns,
                                k.columns);
        if (t == 0) {
          out = entry;
        } else {
          out += entry;
        }
      }
    }
  });
}

template <typename T>
void segment_sum(const EmbeddingBackward& k) {
  int32_t* starts = k.scratch;
  int32_t* order = k.scratch + k.table_rows + 1;
  std::fill_n(starts, k.table_rows + 1, 0);
  for (int64_t r = 0; r < k.rows; ++r) ++starts[k.ids[r * k.id_stride] + 1];
  for (int64_t i = 0; i < k.table_rows; ++i) starts[i + 1] += starts[i];
  for (int64_t r = 0; r < k.rows; ++r) order[starts[k.ids[r * k.id_stride]]++] = static_cast<int32_t>(r);
  // `starts[i]` is now the end of segment i.
  parallel_items((k.table_rows + 7) / 8, [&](int64_t group) {
    for (int64_t id = group * 8; id < std::min(k.table_rows, group * 8 + 8); ++id) {
      Row<T> sum(static_cast<T*>(k.d_table) + id * k.columns, k.columns);
      if (!k.accumulate) sum.setZero();
      for (int32_t i = id == 0 ? 0 : starts[id - 1]; i < starts[id]; ++i)
        sum += ConstRow<T>(static_cast<const T*>(k.d_out) + order[i] * k.columns, k.columns);
    }
  });
}

}  // namespace

void embedding(const Embedding& k) {
  with_type(k.type, [&]<typename T>() { gather<T>(k); });
}

void embedding_backward(const EmbeddingBackward& k) {
  with_type(k.type, [&]<typename T>() { segment_sum<T>(k); });
}

}  // namespace perceiver::kernels::cpu
