// Rotary position encoding of one row (docs/model.md, "Positions"; Su et al. 2021, with both ends of the
// wavelengths included).
#pragma once

#include <cstdint>
#include <cstdlib>

namespace perceiver::kernels::cpu {

/// Rotates the first 2 * bands channels of each of `heads` heads at `row` by the angles of `position`;
/// `direction` is +1, or -1 for the inverse.
template <typename T>
inline void rotate_row(T* row, int64_t heads, int64_t head_dim, int64_t bands, int64_t position,
                       const void* cosines, const void* sines, int direction) {
  const T* cosine = static_cast<const T*>(cosines) + std::abs(position) * bands;
  const T* sine = static_cast<const T*>(sines) + std::abs(position) * bands;
  const T sign = static_cast<T>(position < 0 ? -direction : direction);
  for (int64_t h = 0; h < heads; ++h) {
    T* x = row + h * head_dim;
    for (int64_t i = 0; i < bands; ++i) {
      const T even = x[2 * i], odd = x[2 * i + 1], s = sign * sine[i];
      x[2 * i] = even * cosine[i] - odd * s;
      x[2 * i + 1] = odd * cosine[i] + even * s;
    }
  }
}

}  // namespace perceiver::kernels::cpu
