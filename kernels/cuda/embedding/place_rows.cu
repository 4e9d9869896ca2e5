// Rows that replace rows of another matrix, and the way back.
//
// A thread owns one 16-byte vector of a row (column_grid.cuh): each element that moves is read and written
// once, and the way back writes one zero more.
#include "kernels/cuda/support/column_sums.cuh"
#include "kernels/embedding.h"

namespace perceiver::kernels::cuda {
namespace {

template <typename T, int N>
__global__ void __launch_bounds__(ColumnGrid::kThreads) place_kernel(ColumnGrid grid, PlaceRows k) {
  const int64_t column = grid.vector() * N;
  if (column >= k.columns) return;
  for (int64_t first = grid.first_row(); first < grid.rows; first += grid.row_step()) {
    for (int u = 0; u < ColumnGrid::kUnroll; ++u) {
      const int64_t r = first + u * ColumnGrid::kWalkers;
      if (r >= grid.rows) break;
      const int64_t row = k.row[r];
      if (row < 0) continue;
      float x[N];
      load(static_cast<const T*>(k.x) + r * k.columns + column, x);
      store(static_cast<T*>(k.target) + row * k.columns + column, x);
    }
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(ColumnGrid::kThreads) take_kernel(ColumnGrid grid, TakeRows k) {
  const int64_t column = grid.vector() * N;
  if (column >= k.columns) return;
  for (int64_t first = grid.first_row(); first < grid.rows; first += grid.row_step()) {
    for (int u = 0; u < ColumnGrid::kUnroll; ++u) {
      const int64_t r = first + u * ColumnGrid::kWalkers;
      if (r >= grid.rows) break;
      const int64_t row = k.row[r];
      T* target = static_cast<T*>(k.d_target) + row * k.columns + column;
      const float zero[N] = {};
      if (k.d_x != nullptr) {
        T* x = static_cast<T*>(k.d_x) + r * k.columns + column;
        float sum[N] = {}, old[N] = {};
        if (row >= 0) load(static_cast<const T*>(target), sum);
        if (k.accumulate) load(static_cast<const T*>(x), old);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += old[i];
        store(x, sum);
      }
      if (row >= 0) store(target, zero);
    }
  }
}

}  // namespace

void place_rows(const Launch& launch, const PlaceRows& k) {
  if (k.rows == 0) return;
  with_type(k.type, [&]<typename T>() {
    with_width<T>(wide_rows<T>(k.columns, {k.x, k.target}), [&]<int N>() {
      const ColumnGrid grid(k.rows, k.columns / N, streaming_blocks(launch));
      place_kernel<T, N><<<grid.blocks(), ColumnGrid::threads(), 0, stream_of(launch)>>>(grid, k);
    });
  });
  check_launch("place_rows");
}

void take_rows(const Launch& launch, const TakeRows& k) {
  if (k.rows == 0) return;
  with_type(k.type, [&]<typename T>() {
    with_width<T>(wide_rows<T>(k.columns, {k.d_x, k.d_target}), [&]<int N>() {
      const ColumnGrid grid(k.rows, k.columns / N, streaming_blocks(launch));
      take_kernel<T, N><<<grid.blocks(), ColumnGrid::threads(), 0, stream_of(launch)>>>(grid, k);
    });
  });
  check_launch("take_rows");
}

}  // namespace perceiver::kernels::cuda
