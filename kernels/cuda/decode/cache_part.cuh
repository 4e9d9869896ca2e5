// 16 bytes of a key or value in the KV caches of the fused decode step, a thread's part of a row: 8 channels
// of bf16 or 16 of e4m3, and what attention does with them.
//
// - bf16: products and sums in f32.
// - e4m3: one instruction makes f16 of a pair, exactly. Queries are f16, divided by kQueryScale for range; 4
//   products each are added in f16, then in f32. Values are added in f16 over the rows that a thread has at
//   once, then in f32. What f16 rounds is 2^-11 of a sum, e4m3 itself 2^-4 of a number.
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/decode/narrow_weights.cuh"
#include "kernels/cuda/decode/partials.cuh"

namespace perceiver::kernels::cuda {

inline constexpr int kPartBytes = 16;
template <DType kCache>
inline constexpr int kPartChannels = kPartBytes / (is_narrow(kCache) ? 1 : 2);

#ifdef PERCEIVER_DECODE_SM90

/// Two e4m3 codes, of the upper or lower 16 bits, as f16.
__device__ inline __half2 halves_of(uint32_t codes, bool upper) {
  const uint32_t pair = half_pair(upper ? codes >> 16 : codes);
  return reinterpret_cast<const __half2&>(pair);
}
/// To nearest, clamped to 448; `x.x` is the lower byte.
__device__ inline uint32_t e4m3_pair(float2 x) {
  uint16_t codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(x.y), "f"(x.x));
  return codes;
}
/// Two neighbouring channels as they are kept.
__device__ inline uint32_t cached_pair(bool narrow, float2 x) {
  return narrow ? e4m3_pair(x) : pack(x.x, x.y);
}

__device__ inline void store_cached_pair(bool narrow, void* to, uint32_t pair) {
  if (narrow) {
    *static_cast<uint16_t*>(to) = static_cast<uint16_t>(pair);
  } else {
    *static_cast<uint32_t*>(to) = pair;
  }
}

/// A query's channels that belong to a part.
template <DType kCache>
class QueryPart;

template <>
class QueryPart<DType::bf16> {
 public:
  /// Channels i and i + 1.
  __device__ void set(int i, float2 x) { q_[i] = x.x, q_[i + 1] = x.y; }
  __device__ float dot(const uint4& key) const {
    const uint32_t words[4] = {key.x, key.y, key.z, key.w};
    float even = 0, odd = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = unpack(words[i]);
      even += q_[2 * i] * pair.x;
      odd += q_[2 * i + 1] * pair.y;
    }
    return even + odd;
  }

 private:
  float q_[8];
};

template <>
class QueryPart<DType::e4m3> {
 public:
  __device__ void set(int i, float2 x) {
    q_[i / 2] = __floats2half2_rn(x.x * (1 / kQueryScale), x.y * (1 / kQueryScale));
  }
  __device__ float dot(const uint4& key) const {
    const uint32_t words[4] = {key.x, key.y, key.z, key.w};
    __half2 sums[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sums[i] = __hmul2(q_[4 * i], halves_of(words[2 * i], false));
      sums[i] = __hfma2(q_[4 * i + 1], halves_of(words[2 * i], true), sums[i]);
      sums[i] = __hfma2(q_[4 * i + 2], halves_of(words[2 * i + 1], false), sums[i]);
      sums[i] = __hfma2(q_[4 * i + 3], halves_of(words[2 * i + 1], true), sums[i]);
    }
    const float2 a = __half22float2(sums[0]), b = __half22float2(sums[1]);
    return ((a.x + a.y) + (b.x + b.y)) * kQueryScale;
  }

 private:
  static constexpr float kQueryScale = 16;
  __half2 q_[8];
};

/// A part of the row that this step writes: channels 8 * half to 8 * half + 7, from words that hold a pair of
/// channels each (cached_pair).
template <DType kCache>
__device__ inline void set_new_part(uint4& part, int half, uint2 low, uint2 high) {
  if constexpr (kCache == DType::bf16) {
    part = {low.x, low.y, high.x, high.y};
  } else {
    const uint32_t first = low.x | low.y << 16, second = high.x | high.y << 16;
    if (half == 0) {
      part.x = first, part.y = second;
    } else {
      part.z = first, part.w = second;
    }
  }
}

/// A running softmax-weighted sum of a part's channels.
template <DType kCache>
struct AttentionSum {
  static constexpr int kChannels = kPartChannels<kCache>;
  float largest = kLowestScore, denominator = 0;
  float out[kChannels] = {};

  __device__ void scale(float factor) {
    denominator *= factor;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) out[i] *= factor;
  }

  /// Adds the values of the rows i for which exists(i), with weights weight(i).
  template <int kRows, typename Exists, typename Weight>
  __device__ __forceinline__ void add(const uint4 (&values)[kRows], const Exists& exists,
                                      const Weight& weight) {
    if constexpr (kCache == DType::bf16) {
#pragma unroll
      for (int i = 0; i < kRows; ++i)
        if (exists(i)) add_row(weight(i), values[i]);
    } else {
      __half2 sums[8] = {};
#pragma unroll
      for (int i = 0; i < kRows; ++i)
        if (exists(i)) add_row(weight(i), values[i], sums);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float2 pair = __half22float2(sums[i]);
        out[2 * i] += pair.x, out[2 * i + 1] += pair.y;
      }
    }
  }

  /// Merges the teams of a warp that share a head: lanes that differ in the bits from `begin` to below `end`.
  __device__ void merge(int begin, int end) {
    float all = largest;
    for (int offset = begin; offset < end; offset *= 2)
      all = fmaxf(all, __shfl_xor_sync(0xffffffffu, all, offset));
    scale(exp2_fast(largest - all));
    largest = all;
    for (int offset = begin; offset < end; offset *= 2) {
      denominator += __shfl_xor_sync(0xffffffffu, denominator, offset);
#pragma unroll
      for (int i = 0; i < kChannels; ++i) out[i] += __shfl_xor_sync(0xffffffffu, out[i], offset);
    }
  }

 private:
  __device__ __forceinline__ void add_row(float weight, const uint4& value) {
    const uint32_t words[4] = {value.x, value.y, value.z, value.w};
    denominator += weight;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = unpack(words[i]);
      out[2 * i] += weight * pair.x;
      out[2 * i + 1] += weight * pair.y;
    }
  }
  __device__ __forceinline__ void add_row(float weight, const uint4& value, __half2 (&sums)[8]) {
    const uint32_t words[4] = {value.x, value.y, value.z, value.w};
    const __half2 both = __float2half2_rn(weight);
    denominator += weight;
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[i] = __hfma2(both, halves_of(words[i / 2], i % 2 != 0), sums[i]);
  }
};

#endif
}  // namespace perceiver::kernels::cuda
