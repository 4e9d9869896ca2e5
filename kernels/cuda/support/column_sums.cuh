// Sums down the columns of a matrix, in a fixed order.
#pragma once

#include "kernels/cuda/support/column_grid.cuh"

namespace perceiver::kernels::cuda {

/// target[t] [columns] (+)= sum over `count` parts of part [t * columns + column]; part p starts at parts + p
/// * stride. Null targets are skipped.
struct PartSums {
  const float* parts;
  int64_t count, stride, columns;
  float* target[3];
  bool accumulate[3];
};
void sum_parts(const Launch& launch, const PartSums& sums);

/// target [columns] (+)= column sums of x [rows, stride] of `type`, columns <= stride. Uses the workspace.
void sum_columns(const Launch& launch, DType type, int64_t rows, int64_t columns, int64_t stride,
                 const void* x, float* target, bool accumulate);

/// The largest number of parts of `floats` each that fits in the workspace.
inline int64_t parts_that_fit(const Launch& launch, int64_t floats) {
  return std::max<int64_t>(1, launch.workspace_bytes / (floats * static_cast<int64_t>(sizeof(float))));
}

/// Ends a kernel on a ColumnGrid: adds the `sum` of the 8 walkers and writes the block's part. Call it from
/// all threads.
template <int N, typename Grid>
__device__ inline void write_part(const Grid& grid, const float (&sum)[N], float* parts) {
  __shared__ float shared[Grid::kWalkers][N][Grid::kLanes];
#pragma unroll
  for (int j = 0; j < N; ++j) shared[threadIdx.y][j][threadIdx.x] = sum[j];
  __syncthreads();
  const int64_t first = static_cast<int64_t>(blockIdx.x % grid.column_blocks) * Grid::kLanes * N;
  for (int i = static_cast<int>(threadIdx.y * Grid::kLanes + threadIdx.x); i < Grid::kLanes * N;
       i += Grid::kThreads) {
    if (first + i >= grid.vectors * N) break;
    float total = 0;
#pragma unroll
    for (int walker = 0; walker < Grid::kWalkers; ++walker) total += shared[walker][i % N][i / N];
    parts[grid.row_block() * grid.vectors * N + first + i] = total;
  }
}

}  // namespace perceiver::kernels::cuda
