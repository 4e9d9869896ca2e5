// The inverse rotation (Rotary) of gradients in wgmma's accumulator layout, where a pair of channels belongs
// to one thread.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/hopper/roles.cuh"

namespace perceiver::kernels::cuda::hopper {

/// Rotates back a warp's 16 rows of head `head`, D channels. The thread's two rows are `row` and `row` + 8 of
/// `rotary.positions`, of which those from `end` on do not exist.
template <int D>
__device__ inline void rotate_rows_back(float (&c)[D / 2], const AttentionRotary& rotary, int head,
                                        int64_t row, int64_t end) {
  if (rotary.positions == nullptr || head >= rotary.heads) return;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (row + r * 8 >= end) continue;
    const int position = rotary.positions[row + r * 8];
    const float direction = position < 0 ? 1.0f : -1.0f;
    const int64_t angles = static_cast<int64_t>(abs(position)) * rotary.bands + lane() % 4;
    const float* cosine = static_cast<const float*>(rotary.cosine) + angles;
    const float* sine = static_cast<const float*>(rotary.sine) + angles;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      if (n * 4 + lane() % 4 >= rotary.bands) continue;
      float& even = c[n * 4 + r * 2];
      float& odd = c[n * 4 + r * 2 + 1];
      const float e = even, o = odd, cos = cosine[n * 4], sin = direction * sine[n * 4];
      even = e * cos - o * sin;
      odd = o * cos + e * sin;
    }
  }
}

}  // namespace perceiver::kernels::cuda::hopper
