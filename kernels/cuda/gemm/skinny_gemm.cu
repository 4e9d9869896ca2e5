// Skinny GEMM: products with few rows, which read each weight once.
#include <type_traits>

#include "kernels/cuda/support/narrow.cuh"
#include "kernels/cuda/support/vector.cuh"
#include "kernels/gemm.h"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kRows = 4;

/// A warp computes one column of the result for all rows, kRows at a time: the column's weights come from
/// memory once and from the caches after that. The lanes interleave packs of `depth`; the order of a sum does
/// not depend on the number of rows. Weights are W: T, or of eight bits, whose scale multiplies the sum.
template <typename T, typename W, int N>
__global__ void __launch_bounds__(kThreads) skinny_gemm_kernel(SkinnyGemm k) {
  const int64_t column = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (column >= k.columns) return;
  const W* weight = static_cast<const W*>(k.weight) + column * k.depth;
  const T* x = static_cast<const T*>(k.x);
  const float bias = k.bias == nullptr ? 0.0f : to_float(static_cast<const T*>(k.bias)[column]);
  const float scale = std::is_same_v<T, W> ? 1.0f : static_cast<const float*>(k.weight_scale)[column];
  for (int64_t first = 0; first < k.rows; first += kRows) {
    float sum[kRows] = {};
    for (int64_t i = lane * N; i < k.depth; i += 32 * N) {
      float w[N];
      load(weight + i, w);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (first + r >= k.rows) break;
        float values[N];
        load(x + (first + r) * k.depth + i, values);
#pragma unroll
        for (int j = 0; j < N; ++j) sum[r] = fmaf(values[j], w[j], sum[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float total = std::is_same_v<T, W> ? warp_sum(sum[r]) : warp_sum(sum[r]) * scale;
      if (lane == 0 && first + r < k.rows)
        static_cast<T*>(k.out)[(first + r) * k.columns + column] = from_float<T>(total + bias);
    }
  }
}

template <typename T, typename W>
void multiply(const Launch& launch, const SkinnyGemm& k) {
  with_width<T>(wide_rows<T>(k.depth, {k.x, k.weight}), [&]<int N>() {
    const auto blocks = static_cast<unsigned>(ceil_div(k.columns, kWarps));
    skinny_gemm_kernel<T, W, N><<<blocks, kThreads, 0, stream_of(launch)>>>(k);
  });
}

}  // namespace

void skinny_gemm(const Launch& launch, const SkinnyGemm& k) {
  if (k.rows == 0) return;
  require(k.weight_type == k.type || is_narrow(k.weight_type),
          "weights of the activations' type, i8 or e4m3");
  with_type(k.type, [&]<typename T>() {
    if (k.weight_type == k.type) return multiply<T, T>(launch, k);
    with_narrow_type(k.weight_type, [&]<typename W>() { multiply<T, W>(launch, k); });
  });
  check_launch("skinny_gemm");
}

}  // namespace perceiver::kernels::cuda
