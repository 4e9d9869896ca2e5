// LayerNorm of the fused decode step for several slots.
#pragma once

#include "kernels/cuda/decode/loads.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

/// A row held by one warp; a lane has 4 neighbouring channels of every 128.
class NormRow {
 public:
  static constexpr int kPacks = kMaxChannels / 128;

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
  __device__ void normalise(int columns) {
    const float inverse = 1.0f / static_cast<float>(columns);
    float sum = 0, squares = 0;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) sum += (x_[p].x + x_[p].y) + (x_[p].z + x_[p].w);
    const float mean = warp_sum(sum) * inverse;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (column(p) >= columns) continue;
      const float a = x_[p].x - mean, b = x_[p].y - mean, c = x_[p].z - mean, d = x_[p].w - mean;
      squares += (a * a + b * b) + (c * c + d * d);
    }
    const float rstd = rsqrtf(warp_sum(squares) * inverse + kNormEpsilon);
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
  __device__ void store(bf16* row, int columns) const {
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if (column(p) < columns)
        *reinterpret_cast<uint2*>(row + column(p)) = {pack(x_[p].x, x_[p].y), pack(x_[p].z, x_[p].w)};
  }

 private:
  __device__ static int column(int p) {
    return p * 128 + static_cast<int>(threadIdx.x) % 32 * 4;
  }

  float4 x_[kPacks];
  uint2 scale_[kPacks] = {}, offset_[kPacks] = {};
};

#endif
}  // namespace perceiver::kernels::cuda
