// The rotation of vectors of columns in registers (kernels::Rotation).
#pragma once

#include "kernels/cuda/support/rotate.cuh"
#include "kernels/cuda/support/vector.cuh"
#include "kernels/projection.h"

namespace perceiver::kernels::cuda {

/// Whether a vector of columns is rotated, and from which band on.
struct RotatedColumn {
  bool rotated = false;
  int64_t band = 0;

  __device__ RotatedColumn(const Rotation& how, int64_t column) {
    if (how.bands == 0) return;
    const int64_t head = column / how.head_dim, channel = column % how.head_dim;
    rotated = head < how.heads && channel < 2 * how.bands;
    band = channel / 2;
  }
};

/// Cosines and sines of N bands.
template <int N>
struct Angles {
  float cosine[N], sine[N];

  /// From `band` on, at `position`.
  __device__ void load(const Rotation& how, int64_t band, int32_t position) {
    const int64_t entry = abs(position) * how.bands + band;
    cuda::load(static_cast<const float*>(how.cosine) + entry, cosine);
    cuda::load(static_cast<const float*>(how.sine) + entry, sine);
    if (position >= 0) return;
#pragma unroll
    for (int i = 0; i < N; ++i) sine[i] = -sine[i];
  }
  __device__ void rotate(float (&x)[2 * N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) rotate_pair(x[2 * i], x[2 * i + 1], cosine[i], sine[i]);
  }
};

}  // namespace perceiver::kernels::cuda
