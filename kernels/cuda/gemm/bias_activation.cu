// Bias and activation of a linear layer, and their backward with the bias gradient.
//
// Both walk down the columns (column_grid.cuh): the bias, and in backward the thread's share of its gradient,
// stay in registers. Forward reads pre and writes pre and out; backward reads pre and d_out and writes d_pre;
// each once. The bias gradient is summed from parts in the workspace (column_sums.cu).
#include "kernels/cuda/support/activation.cuh"
#include "kernels/cuda/support/column_sums.cuh"
#include "kernels/gemm.h"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kBackwardBlocks = 3;  // per SM, as many as the registers allow

// Backward reads two matrices, so two rows in flight are as many bytes as four in forward.
using BackwardGrid = BasicColumnGrid<2>;

template <typename T, int N>
__global__ void __launch_bounds__(ColumnGrid::kThreads, 3) forward_kernel(ColumnGrid grid, BiasActivation k) {
  constexpr int kUnroll = ColumnGrid::kUnroll;
  const int64_t vector = grid.vector();
  if (vector >= grid.vectors) return;
  float bias[N] = {};
  if (k.bias != nullptr) load(static_cast<const T*>(k.bias) + vector * N, bias);
  T* pre = static_cast<T*>(k.pre) + vector * N;
  T* out = static_cast<T*>(k.out) + vector * N;
  for (int64_t row = grid.first_row(); row < grid.rows; row += grid.row_step()) {
    Pack<T, N> packs[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t r = row + u * ColumnGrid::kWalkers;
      if (r < grid.rows) packs[u] = load_pack<N>(pre + r * k.columns);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t r = row + u * ColumnGrid::kWalkers;
      if (r >= grid.rows) break;
      float x[N];
      unpack(packs[u], x);
      if (k.bias != nullptr) {
#pragma unroll
        for (int i = 0; i < N; ++i) x[i] = rounded<T>(x[i] + bias[i]);
        store(pre + r * k.columns, x);
      }
      if (k.out == nullptr) continue;
      activate(k.activation, x);
      store(out + r * k.columns, x);
    }
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(BackwardGrid::kThreads, kBackwardBlocks)
    backward_kernel(BackwardGrid grid, BiasActivationBackward k, float* parts) {
  constexpr int kUnroll = BackwardGrid::kUnroll;
  const int64_t vector = grid.vector();
  float sum[N] = {};
  if (vector < grid.vectors) {
    const T* pre = static_cast<const T*>(k.kept) + vector * N;
    const T* d_out = static_cast<const T*>(k.d_out) + vector * N;
    T* d_pre = static_cast<T*>(k.d_pre) + vector * N;
    for (int64_t row = grid.first_row(); row < grid.rows; row += grid.row_step()) {
      Pack<T, N> x_packs[kUnroll], d_packs[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int64_t r = row + u * BackwardGrid::kWalkers;
        if (r >= grid.rows) continue;
        x_packs[u] = load_pack<N>(pre + r * k.columns);
        d_packs[u] = load_pack<N>(d_out + r * k.columns);
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int64_t r = row + u * BackwardGrid::kWalkers;
        if (r >= grid.rows) break;
        float x[N], d[N];
        unpack(x_packs[u], x), unpack(d_packs[u], d);
        differentiate(k.activation, x, d);
        store(d_pre + r * k.columns, d);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += d[i];
      }
    }
  }
  if (parts != nullptr) write_part(grid, sum, parts);
}

}  // namespace

void bias_activation(const Launch& launch, const BiasActivation& k) {
  if (k.rows == 0 || (k.bias == nullptr && k.out == nullptr)) return;
  with_type(k.type, [&]<typename T>() {
    with_width<T>(wide_rows<T>(k.columns, {k.pre, k.bias, k.out}), [&]<int N>() {
      const ColumnGrid grid(k.rows, k.columns / N, streaming_blocks(launch));
      forward_kernel<T, N><<<grid.blocks(), ColumnGrid::threads(), 0, stream_of(launch)>>>(grid, k);
    });
  });
  check_launch("bias_activation");
}

void bias_activation_backward(const Launch& launch, const BiasActivationBackward& k) {
  float* d_bias = static_cast<float*>(k.d_bias);
  if (k.activation == Activation::identity) {
    const int64_t stride = k.stride > 0 ? k.stride : k.columns;
    if (d_bias != nullptr)
      sum_columns(launch, k.type, k.rows, k.columns, stride, k.d_out, d_bias, k.accumulate_bias);
    return;
  }
  float* parts = d_bias != nullptr ? static_cast<float*>(launch.workspace) : nullptr;
  int64_t count = 0;
  with_type(k.type, [&]<typename T>() {
    with_width<T>(wide_rows<T>(k.columns, {k.kept, k.d_out, k.d_pre}), [&]<int N>() {
      BackwardGrid grid(k.rows, k.columns / N, resident_blocks(launch, kBackwardBlocks));
      count = std::min<int64_t>(grid.row_blocks, parts_that_fit(launch, k.columns));
      grid.row_blocks = static_cast<unsigned>(count);
      backward_kernel<T, N><<<grid.blocks(), BackwardGrid::threads(), 0, stream_of(launch)>>>(grid, k, parts);
    });
  });
  check_launch("bias_activation_backward");
  if (d_bias != nullptr)
    sum_parts(launch, {.parts = parts,
                       .count = count,
                       .stride = k.columns,
                       .columns = k.columns,
                       .target = {d_bias},
                       .accumulate = {k.accumulate_bias}});
}

}  // namespace perceiver::kernels::cuda
