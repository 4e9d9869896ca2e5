// Sums of table rows, and their backward, sums by id (segment_sum.cuh).
//
// Forward: a thread owns one 16-byte vector of the columns and walks down the rows (column_grid.cuh), four
// rows at a time; a block's 512-byte slice of a small table stays in the L1 cache. Memory: the output is
// written once, tables that fit into a cache are read once.
#include "kernels/cuda/embedding/segment_sum.cuh"
#include "kernels/cuda/support/column_grid.cuh"
#include "kernels/embedding.h"

namespace perceiver::kernels::cuda {
namespace {

template <typename T, int N>
__global__ void __launch_bounds__(ColumnGrid::kThreads) gather_kernel(ColumnGrid grid, Embedding k) {
  constexpr int kUnroll = ColumnGrid::kUnroll;
  const int64_t column = grid.vector() * N;
  if (column >= k.columns) return;
  T* out = static_cast<T*>(k.out) + column;
  for (int64_t first = grid.first_row(); first < grid.rows; first += grid.row_step()) {
    float sum[kUnroll][N] = {};
    for (int t = 0; t < k.tables; ++t) {
      const T* table = static_cast<const T*>(k.table[t]) + column;
      Pack<T, N> entries[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int64_t r = first + u * ColumnGrid::kWalkers;
        if (r < grid.rows) entries[u] = load_pack<N>(table + k.ids[t][r * k.id_stride[t]] * k.columns);
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
#pragma unroll
        for (int i = 0; i < N; ++i) sum[u][i] += to_float(entries[u].x[i]);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t r = first + u * ColumnGrid::kWalkers;
      if (r < grid.rows) store(out + r * k.columns, sum[u]);
    }
  }
}

}  // namespace

void embedding(const Launch& launch, const Embedding& k) {
  if (k.rows == 0) return;
  with_type(k.type, [&]<typename T>() {
    bool wide = wide_rows<T>(k.columns, {k.out});
    for (int t = 0; t < k.tables; ++t) wide = wide && aligned({k.table[t]});
    with_width<T>(wide, [&]<int N>() {
      const ColumnGrid grid(k.rows, k.columns / N, streaming_blocks(launch));
      gather_kernel<T, N><<<grid.blocks(), ColumnGrid::threads(), 0, stream_of(launch)>>>(grid, k);
    });
  });
  check_launch("embedding");
}

void embedding_backward(const Launch& launch, const EmbeddingBackward& k) {
  const RowIds ids{k.rows, k.table_rows, k.ids, k.id_stride};
  const SegmentTarget target{k.columns, k.d_table, k.accumulate, k.scratch};
  with_type(k.type, [&]<typename T>() {
    with_width<T>(wide_rows<T>(k.columns, {k.d_out, k.d_table}), [&]<int N>() {
      sum_by_id(launch, ids, target, PlainRows<T, N>{static_cast<const T*>(k.d_out), k.columns});
    });
  });
}

}  // namespace perceiver::kernels::cuda
