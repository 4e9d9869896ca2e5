// Several latents per position: repeating rows with an index encoding, and averaging them.
//
// A thread owns one 16-byte vector of a row's columns and the group of copies that belongs to the row
// (column_grid.cuh), so that each matrix is read or written once; the encodings come from the L1 cache. The
// gradient of the encodings is the column sum of d_y seen as [rows, copies * columns].
#include "kernels/cuda/support/column_sums.cuh"
#include "kernels/embedding.h"

namespace perceiver::kernels::cuda {
namespace {

template <typename T, int N>
__global__ void __launch_bounds__(ColumnGrid::kThreads) repeat_kernel(ColumnGrid grid, RepeatRows k) {
  const int64_t column = grid.vector() * N;
  if (column >= k.columns) return;
  const T* encoding = static_cast<const T*>(k.encoding) + column;
  for (int64_t first = grid.first_row(); first < grid.rows; first += grid.row_step()) {
    for (int u = 0; u < ColumnGrid::kUnroll; ++u) {
      const int64_t r = first + u * ColumnGrid::kWalkers;
      if (r >= grid.rows) break;
      float x[N];
      load(static_cast<const T*>(k.x) + r * k.columns + column, x);
      T* y = static_cast<T*>(k.y) + r * k.copies * k.columns + column;
#pragma unroll 4
      for (int64_t copy = 0; copy < k.copies; ++copy) {
        float sum[N];
        load(encoding + copy * k.columns, sum);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += x[i];
        store(y + copy * k.columns, sum);
      }
    }
  }
}

/// y [rows, columns] (+)= sum over the copies of x [rows, copies, columns], divided by `divisor`.
struct GroupSum {
  int64_t copies, columns;
  const void* x;
  void* y;
  float divisor;
  bool accumulate;
};

template <typename T, int N>
__global__ void __launch_bounds__(ColumnGrid::kThreads) group_sum_kernel(ColumnGrid grid, GroupSum k) {
  const int64_t column = grid.vector() * N;
  if (column >= k.columns) return;
  for (int64_t first = grid.first_row(); first < grid.rows; first += grid.row_step()) {
    for (int u = 0; u < ColumnGrid::kUnroll; ++u) {
      const int64_t r = first + u * ColumnGrid::kWalkers;
      if (r >= grid.rows) break;
      const T* x = static_cast<const T*>(k.x) + r * k.copies * k.columns + column;
      T* y = static_cast<T*>(k.y) + r * k.columns + column;
      float sum[N] = {}, old[N] = {};
      if (k.accumulate) load(static_cast<const T*>(y), old);
#pragma unroll 4
      for (int64_t copy = 0; copy < k.copies; ++copy) {
        float value[N];
        load(x + copy * k.columns, value);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += value[i];
      }
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] = sum[i] / k.divisor + old[i];
      store(y, sum);
    }
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(ColumnGrid::kThreads)
    spread_kernel(ColumnGrid grid, AverageRowsBackward k) {
  const int64_t column = grid.vector() * N;
  if (column >= k.columns) return;
  const float divisor = static_cast<float>(k.copies);
  for (int64_t first = grid.first_row(); first < grid.rows; first += grid.row_step()) {
    for (int u = 0; u < ColumnGrid::kUnroll; ++u) {
      const int64_t r = first + u * ColumnGrid::kWalkers;
      if (r >= grid.rows) break;
      float d_y[N];
      load(static_cast<const T*>(k.d_y) + r * k.columns + column, d_y);
#pragma unroll
      for (int i = 0; i < N; ++i) d_y[i] /= divisor;
      T* d_x = static_cast<T*>(k.d_x) + r * k.copies * k.columns + column;
#pragma unroll 4
      for (int64_t copy = 0; copy < k.copies; ++copy) {
        float sum[N] = {};
        if (k.accumulate) load(static_cast<const T*>(d_x + copy * k.columns), sum);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += d_y[i];
        store(d_x + copy * k.columns, sum);
      }
    }
  }
}

void group_sum(const Launch& launch, DType type, int64_t rows, const GroupSum& k) {
  if (rows == 0) return;
  with_type(type, [&]<typename T>() {
    with_width<T>(wide_rows<T>(k.columns, {k.x, k.y}), [&]<int N>() {
      const ColumnGrid grid(rows, k.columns / N, streaming_blocks(launch));
      group_sum_kernel<T, N><<<grid.blocks(), ColumnGrid::threads(), 0, stream_of(launch)>>>(grid, k);
    });
  });
  check_launch("sums over copies");
}

}  // namespace

void repeat_rows(const Launch& launch, const RepeatRows& k) {
  if (k.rows == 0) return;
  with_type(k.type, [&]<typename T>() {
    with_width<T>(wide_rows<T>(k.columns, {k.x, k.encoding, k.y}), [&]<int N>() {
      const ColumnGrid grid(k.rows, k.columns / N, streaming_blocks(launch));
      repeat_kernel<T, N><<<grid.blocks(), ColumnGrid::threads(), 0, stream_of(launch)>>>(grid, k);
    });
  });
  check_launch("repeat_rows");
}

void repeat_rows_backward(const Launch& launch, const RepeatRowsBackward& k) {
  if (k.d_x != nullptr)
    group_sum(launch, k.type, k.rows,
              {.copies = k.copies,
               .columns = k.columns,
               .x = k.d_y,
               .y = k.d_x,
               .divisor = 1,
               .accumulate = k.accumulate_x});
  if (k.d_encoding != nullptr)
    sum_columns(launch, k.type, k.rows, k.copies * k.columns, k.copies * k.columns, k.d_y,
                static_cast<float*>(k.d_encoding), k.accumulate_encoding);
}

void average_rows(const Launch& launch, const AverageRows& k) {
  group_sum(launch, k.type, k.rows,
            {.copies = k.copies,
             .columns = k.columns,
             .x = k.x,
             .y = k.y,
             .divisor = static_cast<float>(k.copies),
             .accumulate = false});
}

void average_rows_backward(const Launch& launch, const AverageRowsBackward& k) {
  if (k.rows == 0) return;
  with_type(k.type, [&]<typename T>() {
    with_width<T>(wide_rows<T>(k.columns, {k.d_y, k.d_x}), [&]<int N>() {
      const ColumnGrid grid(k.rows, k.columns / N, streaming_blocks(launch));
      spread_kernel<T, N><<<grid.blocks(), ColumnGrid::threads(), 0, stream_of(launch)>>>(grid, k);
    });
  });
  check_launch("average_rows_backward");
}

}  // namespace perceiver::kernels::cuda
