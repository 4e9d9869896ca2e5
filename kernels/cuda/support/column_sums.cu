// Column sums in two steps: each block of a ColumnGrid sums its rows into a part [columns] in the workspace,
// one wave of blocks that reads the matrix once; then tiles of 32 columns x 32 threads sum the parts. Parts
// are about blocks / (columns / 256) rows of f32, around a percent of the matrix.
#include "kernels/cuda/support/column_sums.cuh"

#include "kernels/cuda/support/dependent_launch.cuh"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kSumBlocks = 3;  // per SM, as many as the registers allow

__global__ void __launch_bounds__(1024) sum_parts_kernel(PartSums s) {
  start_after_earlier_kernels();
  constexpr int kTile = 32;
  constexpr int kTogether = 12;  // loads of a thread in flight: their latency is most of the kernel's time
  __shared__ float shared[kTile][kTile + 1];
  const auto own_of = [](const auto(&of)[3]) {
    return blockIdx.y == 0 ? of[0] : blockIdx.y == 1 ? of[1] : of[2];
  };
  float* target = own_of(s.target);
  const bool accumulate = own_of(s.accumulate);
  if (target == nullptr) return;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kTile + threadIdx.x;
  const float* from = s.parts + blockIdx.y * s.columns + column;
  float sum = 0;
  if (column < s.columns) {
    for (int64_t first = threadIdx.y; first < s.count; first += kTile * kTogether) {
      float values[kTogether];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const int64_t part = first + i * kTile;
        values[i] = part < s.count ? from[part * s.stride] : 0.0f;
      }
#pragma unroll
      for (int i = 0; i < kTogether; ++i) sum += values[i];
    }
  }
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  // Warp y sums column y of the tile.
  const int64_t own = static_cast<int64_t>(blockIdx.x) * kTile + threadIdx.y;
  const float total = warp_sum(shared[threadIdx.x][threadIdx.y]);
  if (threadIdx.x == 0 && own < s.columns) target[own] = total + (accumulate ? target[own] : 0);
}

template <typename T, int N>
__global__ void __launch_bounds__(ColumnGrid::kThreads, kSumBlocks)
    sum_columns_kernel(ColumnGrid grid, const T* x, float* parts) {
  start_after_earlier_kernels();
  const int64_t vector = grid.vector();
  float sum[N] = {};
  if (vector < grid.vectors) {
    for (int64_t row = grid.first_row(); row < grid.rows; row += grid.row_step()) {
      Pack<T, N> packs[ColumnGrid::kUnroll];
#pragma unroll
      for (int u = 0; u < ColumnGrid::kUnroll; ++u) {
        const int64_t r = row + u * ColumnGrid::kWalkers;
        if (r < grid.rows) packs[u] = load_pack<N>(x + (r * grid.vectors + vector) * N);
      }
#pragma unroll
      for (int u = 0; u < ColumnGrid::kUnroll; ++u) {
        if (row + u * ColumnGrid::kWalkers >= grid.rows) break;
#pragma unroll
        for (int j = 0; j < N; ++j) sum[j] += to_float(packs[u].x[j]);
      }
    }
  }
  write_part(grid, sum, parts);
}

}  // namespace

void sum_parts(const Launch& launch, const PartSums& sums) {
  const unsigned targets = sums.target[2] != nullptr ? 3 : sums.target[1] != nullptr ? 2 : 1;
  const dim3 blocks(static_cast<unsigned>(ceil_div(sums.columns, 32)), targets);
  launch_dependent<sum_parts_kernel>(launch, "column sums", blocks, dim3(32, 32), 0, sums);
}

void sum_columns(const Launch& launch, DType type, int64_t rows, int64_t columns, int64_t stride,
                 const void* x, float* target, bool accumulate) {
  float* parts = static_cast<float*>(launch.workspace);
  unsigned count = 0;
  with_type(type, [&]<typename T>() {
    with_width<T>(wide_rows<T>(stride, {x}), [&]<int N>() {
      ColumnGrid grid(rows, stride / N, resident_blocks(launch, kSumBlocks));
      grid.row_blocks =
          static_cast<unsigned>(std::min<int64_t>(grid.row_blocks, parts_that_fit(launch, stride)));
      count = grid.row_blocks;
      launch_dependent<sum_columns_kernel<T, N>>(launch, "column sums", grid.blocks(), ColumnGrid::threads(),
                                                 0, grid, static_cast<const T*>(x), parts);
    });
  });
  sum_parts(launch, {.parts = parts,
                     .count = count,
                     .stride = stride,
                     .columns = columns,
                     .target = {target},
                     .accumulate = {accumulate}});
}

}  // namespace perceiver::kernels::cuda
