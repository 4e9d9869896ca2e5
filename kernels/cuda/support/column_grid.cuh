// How kernels over the columns of a matrix divide it: blocks of 32 x 8 threads, where thread x owns one
// vector of N columns (a warp reads 32 neighbouring vectors, 512 bytes) and walks down the rows with the 8
// threads y, several rows at a time. What belongs to a column (a bias, a sum) stays in registers. Blocks of
// the same rows are consecutive, so that those running together work on one stretch of memory.
#pragma once

#include <algorithm>

#include "kernels/cuda/support/vector.cuh"

namespace perceiver::kernels::cuda {

/// kRowsInFlight: rows of a thread whose loads are issued together.
template <int kRowsInFlight>
struct BasicColumnGrid {
  static constexpr int kLanes = 32;
  static constexpr int kWalkers = 8;
  static constexpr int kThreads = kLanes * kWalkers;
  static constexpr int kUnroll = kRowsInFlight;
  static constexpr int64_t kRows = kWalkers * kUnroll;

  int64_t rows, vectors;
  unsigned column_blocks, row_blocks;

  /// About `blocks` blocks in all; at least one for each 32 vectors of columns.
  BasicColumnGrid(int64_t rows, int64_t vectors, int64_t blocks)
      : rows(rows),
        vectors(vectors),
        column_blocks(static_cast<unsigned>(ceil_div(vectors, kLanes))),
        row_blocks(static_cast<unsigned>(std::clamp<int64_t>(blocks / ceil_div(vectors, kLanes), 1,
                                                             std::max<int64_t>(1, ceil_div(rows, kRows))))) {}

  unsigned blocks() const { return column_blocks * row_blocks; }
  static dim3 threads() { return {kLanes, kWalkers}; }

  __device__ int64_t vector() const {
    return static_cast<int64_t>(blockIdx.x % column_blocks) * kLanes + threadIdx.x;
  }
  __device__ int64_t row_block() const { return blockIdx.x / column_blocks; }
  /// A thread's rows are first_row() + i * row_step() + u * kWalkers for u < kUnroll.
  __device__ int64_t first_row() const { return row_block() * kRows + threadIdx.y; }
  __device__ int64_t row_step() const { return row_blocks * kRows; }
};

using ColumnGrid = BasicColumnGrid<4>;

/// Blocks of a kernel that keeps nothing from row to row: several waves, so that the last one matters little.
inline int64_t streaming_blocks(const Launch& launch) {
  return int64_t{32} * launch.sm_count;
}

/// Blocks of a kernel with sums in registers: one wave of `blocks_per_sm`, as in its __launch_bounds__.
inline int64_t resident_blocks(const Launch& launch, int blocks_per_sm) {
  return int64_t{blocks_per_sm} * launch.sm_count;
}

}  // namespace perceiver::kernels::cuda
