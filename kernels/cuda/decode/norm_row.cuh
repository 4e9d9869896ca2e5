// LayerNorm of the fused decode step for several slots.
#pragma once

#include "kernels/cuda/decode/loads.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

/// A row held by kWarps neighbouring warps, each of which has every kWarps-th 128 channels; a lane has 4
/// neighbouring ones of these.
template <int kWarps>
class NormRow {
 public:
  static constexpr int kPacks = kMaxChannels / 128 / kWarps;

  /// `warp`: among those of the row.
  __device__ explicit NormRow(int warp) : warp_(warp) {}

  /// Loads the parameters, before waiting for the values.
  __device__ void load_norm(const DecodeNorm& norm, int columns) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (column(p) >= columns) continue;
      scale_[p] = *reinterpret_cast<const uint2*>(static_cast<const bf16*>(norm.scale) + column(p));
      offset_[p] = *reinterpret_cast<const uint2*>(static_cast<const bf16*>(norm.offset) + column(p));
    }
  }
  __device__ void load(const float* row, int columns) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      x_[p] = {0, 0, 0, 0};
      if (column(p) < columns) x_[p] = load_l2(row + column(p));
    }
  }
  /// Adds a row of a table.
  __device__ void add(const bf16* row, int columns) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (column(p) >= columns) continue;
      const uint2 packed = *reinterpret_cast<const uint2*>(row + column(p));
      const float2 low = unpack(packed.x), high = unpack(packed.y);
      x_[p].x += low.x, x_[p].y += low.y, x_[p].z += high.x, x_[p].w += high.y;
    }
  }
  /// Adds the first `count` of at most kMost rows of values, `pitch` apart, whose loads wait for none before.
  template <int kMost>
  __device__ void add_rows(const float* rows, int pitch, int count, int columns) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int at = column(p) < columns ? column(p) : 0;
      float4 y[kMost];
#pragma unroll
      for (int i = 0; i < kMost; ++i) y[i] = load_l2(rows + (i < count ? i : 0) * pitch + at);
#pragma unroll
      for (int i = 0; i < kMost; ++i)
        if (i < count && column(p) < columns)
          x_[p].x += y[i].x, x_[p].y += y[i].y, x_[p].z += y[i].z, x_[p].w += y[i].w;
    }
  }
  __device__ void clear() {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) x_[p] = {0, 0, 0, 0};
  }
  /// To bf16 and back.
  __device__ void round() {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const float2 low = unpack(pack(x_[p].x, x_[p].y)), high = unpack(pack(x_[p].z, x_[p].w));
      x_[p] = {low.x, low.y, high.x, high.y};
    }
  }
  /// Mean, and sum of squares about it, of this warp's channels.
  __device__ float2 moments(int columns) const {
    float sum = 0, squares = 0;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) sum += (x_[p].x + x_[p].y) + (x_[p].z + x_[p].w);
    const float mean = warp_sum(sum) * inverse(channels_of(warp_, columns));
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (column(p) >= columns) continue;
      const float a = x_[p].x - mean, b = x_[p].y - mean, c = x_[p].z - mean, d = x_[p].w - mean;
      squares += (a * a + b * b) + (c * c + d * d);
    }
    return {mean, warp_sum(squares)};
  }
  /// The same of the whole row, from those of its warps.
  __device__ static float2 merge(const float2 (&parts)[kWarps], int columns) {
    const float per_channel = inverse(columns);
    float2 all{0, 0};
#pragma unroll
    for (int w = 0; w < kWarps; ++w)
      all.x += parts[w].x * (static_cast<float>(channels_of(w, columns)) * per_channel);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float away = parts[w].x - all.x;
      all.y += parts[w].y + away * away * static_cast<float>(channels_of(w, columns));
    }
    return all;
  }
  /// `moments`: of the whole row.
  __device__ void normalise(float2 moments, int columns) {
    const float mean = moments.x, rstd = rsqrtf(moments.y * inverse(columns) + kNormEpsilon);
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const float2 s0 = unpack(scale_[p].x), s1 = unpack(scale_[p].y);
      const float2 o0 = unpack(offset_[p].x), o1 = unpack(offset_[p].y);
      x_[p].x = (x_[p].x - mean) * rstd * s0.x + o0.x;
      x_[p].y = (x_[p].y - mean) * rstd * s0.y + o0.y;
      x_[p].z = (x_[p].z - mean) * rstd * s1.x + o1.x;
      x_[p].w = (x_[p].w - mean) * rstd * s1.y + o1.y;
    }
  }
  /// `place`: where the values from a column on go, of which 4 neighbouring ones lie together.
  template <typename Place>
  __device__ void store(int columns, Place&& place) const {
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if (column(p) < columns)
        *reinterpret_cast<uint2*>(place(column(p))) = {pack(x_[p].x, x_[p].y), pack(x_[p].z, x_[p].w)};
  }
  __device__ void store_values(float* row, int columns) const {
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if (column(p) < columns) *reinterpret_cast<float4*>(row + column(p)) = x_[p];
  }

 private:
  /// The lane's first channel of a pack.
  __device__ int column(int p) const {
    return (p * kWarps + warp_) * 128 + static_cast<int>(threadIdx.x) % 32 * 4;
  }
  __device__ static int channels_of(int warp, int columns) {
    if (kWarps == 1) return columns;
    const int whole = columns / 128, last = whole % kWarps == warp ? columns % 128 : 0;
    return (whole + kWarps - 1 - warp) / kWarps * 128 + last;
  }
  __device__ static float inverse(int channels) {
    return channels > 0 ? 1.0f / static_cast<float>(channels) : 0;
  }

  int warp_;
  float4 x_[kPacks];
  uint2 scale_[kPacks] = {}, offset_[kPacks] = {};
};

#endif
}  // namespace perceiver::kernels::cuda
