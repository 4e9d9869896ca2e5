// Sums of table rows, and their backward (segment_sum.h).
#include "kernels/embedding.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/row.h"
#include "kernels/cpu/segment_sum.h"

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
  const T* d_out = static_cast<const T*>(k.d_out);
  sum_segments<T>({k.rows, k.table_rows, k.ids, k.id_stride, k.scratch}, k.columns,
                  static_cast<T*>(k.d_table), k.accumulate,
                  [&](int64_t row, Row<T>& sum) { sum += ConstRow<T>(d_out + row * k.columns, k.columns); });
}

}  // namespace

void embedding(const Embedding& k) {
  with_type(k.type, [&]<typename T>() { gather<T>(k); });
}

void embedding_backward(const EmbeddingBackward& k) {
  with_type(k.type, [&]<typename T>() { segment_sum<T>(k); });
}

}  // namespace perceiver::kernels::cpu
