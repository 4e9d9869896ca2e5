// Relative attention of one query per slot to its ring buffer. A block per slot and head, whose warps take
// the rows in turn and join their online softmaxes at the end, in a fixed order. Bound by reading the cache
// once.
#include <cmath>

#include "kernels/cuda/support/common.cuh"
#include "kernels/cuda/support/narrow.cuh"
#include "kernels/relative_attention.h"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kCacheWarps = 8;
constexpr int kLaneChannels = 4;  // of a head of at most 128 channels

/// C: of the cache.
template <typename T, typename C>
__global__ void __launch_bounds__(32 * kCacheWarps)
    relative_cache_kernel(const __grid_constant__ RelativeCacheAttention k, float scale) {
  __shared__ float largest_of[kCacheWarps], sum_of[kCacheWarps], out_of[kCacheWarps][32 * kLaneChannels];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t slot = blockIdx.y, head = blockIdx.x, width = k.heads * k.head_dim,
                offset = head * k.head_dim;
  const C* cache = static_cast<const C*>(k.cache) + slot * k.capacity * 2 * width + offset;
  float content[kLaneChannels], position[kLaneChannels], out[kLaneChannels] = {};
#pragma unroll
  for (int i = 0; i < kLaneChannels; ++i) {
    const int64_t c = i * 32 + lane;
    const bool inside = c < k.head_dim;
    const float q = inside ? to_float(static_cast<const T*>(k.q)[slot * k.q_stride + offset + c]) : 0.0f;
    // Rounded as the whole pass rounds them.
    content[i] =
        inside ? to_float(from_float<T>(q + to_float(static_cast<const T*>(k.content_bias)[offset + c])))
               : 0.0f;
    position[i] =
        inside ? to_float(from_float<T>(q + to_float(static_cast<const T*>(k.position_bias)[offset + c])))
               : 0.0f;
  }
  const int64_t held = k.count[slot], count = k.window > 0 ? min(held, k.window) : held, newest = k.row[slot];
  float largest = -INFINITY, sum = 0;
  for (int64_t t = warp; t < count; t += kCacheWarps) {
    const C* row = cache + (newest - t + k.capacity) % k.capacity * 2 * width;
    const T* encoded = static_cast<const T*>(k.positions) + min(t, k.distances - 1) * width + offset;
    float score = 0;
#pragma unroll
    for (int i = 0; i < kLaneChannels; ++i) {
      const int64_t c = i * 32 + lane;
      if (c < k.head_dim) score += content[i] * to_float(row[c]) + position[i] * to_float(encoded[c]);
    }
    score = warp_sum(score) * scale;
    const float most = fmaxf(largest, score), correction = expf(largest - most), weight = expf(score - most);
    largest = most;
    sum = sum * correction + weight;
#pragma unroll
    for (int i = 0; i < kLaneChannels; ++i) {
      const int64_t c = i * 32 + lane;
      if (c < k.head_dim) out[i] = out[i] * correction + weight * to_float(row[width + c]);
    }
  }
  if (lane == 0) largest_of[warp] = largest, sum_of[warp] = sum;
#pragma unroll
  for (int i = 0; i < kLaneChannels; ++i) out_of[warp][i * 32 + lane] = out[i];
  __syncthreads();
  for (int64_t c = threadIdx.x; c < k.head_dim; c += 32 * kCacheWarps) {
    float most = -INFINITY, all = 0, value = 0;
    for (int w = 0; w < kCacheWarps; ++w) most = fmaxf(most, largest_of[w]);
    for (int w = 0; w < kCacheWarps; ++w) {
      const float factor = most == -INFINITY ? 0.0f : expf(largest_of[w] - most);
      all += factor * sum_of[w];
      value += factor * out_of[w][c];
    }
    static_cast<T*>(k.out)[slot * k.out_stride + offset + c] = from_float<T>(all > 0 ? value / all : 0.0f);
  }
}

}  // namespace

void relative_cache_attention(const Launch& launch, const RelativeCacheAttention& k) {
  require(k.head_dim <= 32 * kLaneChannels, "heads of at most 128 channels");
  require(k.cache_type == k.type || k.cache_type == DType::e4m3,
          "a cache in the type of the queries or in e4m3");
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(k.head_dim)));
  const dim3 grid(static_cast<unsigned>(k.heads), static_cast<unsigned>(k.slots));
  with_type(k.type, [&]<typename T>() {
    const auto kernel =
        k.cache_type == DType::e4m3 ? relative_cache_kernel<T, E4m3> : relative_cache_kernel<T, T>;
    kernel<<<grid, 32 * kCacheWarps, 0, stream_of(launch)>>>(k, scale);
  });
  check_launch("relative_cache_kernel");
}

}  // namespace perceiver::kernels::cuda
