// Split-KV partials of the fused decode step: where each block's partial of a head is stored, and the sums
// that merge them, each relative to its own maximum score (log-sum-exp in base 2).
#pragma once

#include <type_traits>

#include "kernels/cuda/attention/mma.cuh"
#include "kernels/cuda/decode/arguments.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

inline constexpr float kLowestScore = -1e30f;  // finite, so that the difference of two is 0

/// Floats of one head's partial: sums, maximum, denominator, padding.
__device__ inline int partial_stride(int head_dim) {
  return head_dim + 4;
}
__device__ inline int partial_stride(const AttentionShape& shape) {
  return partial_stride(shape.head_dim);
}
/// Words of one head's partial in the flagged buffer.
__device__ inline int partial_words_stride(const AttentionShape& shape) {
  return shape.head_dim + 2;
}

/// Partial of (slot, group) by a block: the pairs form a staircase, on which their sum is unique.
__device__ inline float* partial_result(const DecodeArguments& a, const AttentionShape& shape, int slot,
                                        int group, int block) {
  return a.partials +
         static_cast<int64_t>(slot * shape.groups + group + block) * shape.group * partial_stride(shape);
}

/// The same in the flagged buffer; groups are counted over all slots.
__device__ inline uint64_t* partial_words(const DecodeArguments& a, const AttentionShape& shape, int group,
                                          int block) {
  return a.flagged.partials + static_cast<int64_t>(group + block) * shape.group * partial_words_stride(shape);
}

/// A sum of split-KV partials: two channels, shared by 8 lanes.
struct PairSum {
  float2 out{0, 0};
  float largest = kLowestScore, denominator = 0;

  __device__ void add(float2 other, float other_largest, float other_denominator) {
    const float all = fmaxf(largest, other_largest);
    const float mine = exp2_fast(largest - all), its = exp2_fast(other_largest - all);
    out.x = out.x * mine + other.x * its, out.y = out.y * mine + other.y * its;
    denominator = denominator * mine + other_denominator * its;
    largest = all;
  }
  /// Over the lanes that are equal modulo 4.
  __device__ void merge() {
    float all = largest;
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2)
      all = fmaxf(all, __shfl_xor_sync(0xffffffffu, all, offset));
    const float mine = exp2_fast(largest - all);
    out.x *= mine, out.y *= mine, denominator *= mine, largest = all;
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2) {
      out.x += __shfl_xor_sync(0xffffffffu, out.x, offset);
      out.y += __shfl_xor_sync(0xffffffffu, out.y, offset);
      denominator += __shfl_xor_sync(0xffffffffu, denominator, offset);
    }
  }
};

/// Sums the partials that the warps of a head left in shared memory, partial_stride floats apart; by one
/// warp. Calls store(pair, channel) for every two channels, and with maximum and denominator as the last
/// channel.
template <typename Store>
__device__ __forceinline__ void merge_warp_partials(const float* parts, int warps, int head_dim, int lane,
                                                    Store&& store) {
  const int stride = partial_stride(head_dim);
  float2 of_warp[kConsumerWarps];  // maximum and denominator
  float largest = kLowestScore;
#pragma unroll
  for (int w = 0; w < kConsumerWarps; ++w) {
    of_warp[w] = {kLowestScore, 0};
    if (w < warps) of_warp[w] = *reinterpret_cast<const float2*>(parts + w * stride + head_dim);
    largest = fmaxf(largest, of_warp[w].x);
  }
  float factor[kConsumerWarps], denominator = 0;
#pragma unroll
  for (int w = 0; w < kConsumerWarps; ++w) {
    factor[w] = exp2_fast(of_warp[w].x - largest);
    denominator += factor[w] * of_warp[w].y;
  }
  for (int channel = 2 * lane; channel < head_dim; channel += 64) {
    float2 out{0, 0};
#pragma unroll
    for (int w = 0; w < kConsumerWarps; ++w) {
      if (w >= warps) continue;
      const float2 part = *reinterpret_cast<const float2*>(parts + w * stride + channel);
      out.x += factor[w] * part.x, out.y += factor[w] * part.y;
    }
    store(out, channel);
  }
  if (lane == 0) store(float2{largest, denominator}, head_dim);
}

/// Combines partials of 32 * N channels of a head in the workspace; a lane has N of them.
template <int N>
class PartialSum {
 public:
  /// `count` partials, of which these channels start at `parts`, `stride` floats apart; `statistics` floats
  /// behind are their maximum and denominator.
  __device__ void add(const float* parts, int64_t stride, int count, int statistics = 32 * N) {
#pragma unroll 1
    for (int block = 0; block < count; block += 32)
      add_block(parts + block * stride, stride, min(32, count - block), statistics);
  }
  /// `to`: where this lane's channels go.
  __device__ void write_quotient(bf16* to) const {
    const float inverse = denominator_ > 0 ? __frcp_rn(denominator_) : 0;
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = __float2bfloat16_rn(out_[i] * inverse);
  }

 private:
  static constexpr int kUnroll = 8;  // partials in flight
  using Channels = std::conditional_t<N == 1, float, std::conditional_t<N == 2, float2, float4>>;
  __device__ static int lane() {
    return static_cast<int>(threadIdx.x) % 32;
  }

  __device__ void add_block(const float* parts, int64_t stride, int count, int statistics) {
    float2 own{kLowestScore, 0};
    if (lane() < count) own = __ldcg(reinterpret_cast<const float2*>(parts + lane() * stride + statistics));
    alignas(16) float x[kUnroll][N];
    load(parts, stride, count, x);
    const float largest = fmaxf(largest_, warp_max(own.x)), factor = exp2_fast(largest_ - largest);
    const float weight = exp2_fast(own.x - largest);
    denominator_ = denominator_ * factor + warp_sum(weight * own.y);
    largest_ = largest;
#pragma unroll
    for (int i = 0; i < N; ++i) out_[i] *= factor;
#pragma unroll 1
    for (int j = 0; j < count; j += kUnroll) {
      if (j > 0) load(parts + j * stride, stride, count - j, x);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const float w = __shfl_sync(0xffffffffu, weight, j + u);
#pragma unroll
        for (int i = 0; i < N; ++i) out_[i] += w * x[u][i];
      }
    }
  }
  __device__ void load(const float* parts, int64_t stride, int count, float (&x)[kUnroll][N]) const {
    parts += lane() * N;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      Channels& channels = *reinterpret_cast<Channels*>(x[u]);
      channels = Channels{};
      if (u < count) channels = __ldcg(reinterpret_cast<const Channels*>(parts + u * stride));
    }
  }
  float largest_ = kLowestScore, denominator_ = 0;
  float out_[N] = {};
};

#endif
}  // namespace perceiver::kernels::cuda
