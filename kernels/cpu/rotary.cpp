// Rotary position encoding, in place (MODEL.md section 3; Su et al. 2021, with both ends of the wavelengths
// included).
#include <cstdlib>

#include "kernels/cpu/parallel.h"
#include "kernels/kernels.h"

namespace perceiver::kernels::cpu {
namespace {

template <typename T>
void rotate(const Rotary& k) {
  parallel_for(k.rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t position = k.positions[r];
      const T* cosine = static_cast<const T*>(k.cosine) + std::abs(position) * k.bands;
      const T* sine = static_cast<const T*>(k.sine) + std::abs(position) * k.bands;
      const T sign = static_cast<T>(position < 0 ? -k.direction : k.direction);
      T* row = static_cast<T*>(k.x) + r * k.row_stride;
      for (int64_t h = 0; h < k.heads; ++h) {
        T* x = row + h * k.head_dim;
        for (int64_t i = 0; i < k.bands; ++i) {
          const T even = x[2 * i], odd = x[2 * i + 1], s = sign * sine[i];
          x[2 * i] = even * cosine[i] - odd * s;
          x[2 * i + 1] = odd * cosine[i] + even * s;
        }
      }
    }
  });
}

}  // namespace

void rotary(const Rotary& k) {
  with_type(k.type, [&]<typename T>() { rotate<T>(k); });
}

}  // namespace perceiver::kernels::cpu
