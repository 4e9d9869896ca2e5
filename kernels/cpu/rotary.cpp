// Rotary position encoding, in place.
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rotate.h"
#include "kernels/embedding.h"

namespace perceiver::kernels::cpu {
namespace {

template <typename T>
void rotate(const Rotary& k) {
  parallel_for(k.rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      rotate_row(static_cast<T*>(k.x) + r * k.row_stride, k.heads, k.head_dim, k.bands, k.positions[r],
                 k.cosine, k.sine, k.direction);
  });
}

}  // namespace

void rotary(const Rotary& k) {
  with_type(k.type, [&]<typename T>() { rotate<T>(k); });
}

}  // namespace perceiver::kernels::cpu
