// Dropout by itself; layer_norm.cpp has it fused.
#include "kernels/cpu/dropout.h"

#include <algorithm>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/row.h"

namespace perceiver::kernels::cpu {
namespace {

template <typename T>
void drop(const Dropout& k) {
  const T* x = static_cast<const T*>(k.x);
  T* y = static_cast<T*>(k.y);
  constexpr int64_t kChunk = 1024;
  parallel_for((k.elements + kChunk - 1) / kChunk, 4, [&](int64_t begin, int64_t end) {
    T factors[kChunk];
    std::fill_n(factors, kChunk, T(1));
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * kChunk, count = std::min(kChunk, k.elements - first);
      if (k.mask.threshold > 0) dropout_factors(k.mask, first, count, factors);
      for (int64_t i = 0; i < count; ++i)
        y[first + i] = x[first + i] * factors[i] + (k.accumulate ? y[first + i] : T(0));
    }
  });
}

}  // namespace

void dropout(const Dropout& k) {
  with_type(k.type, [&]<typename T>() { drop<T>(k); });
}

}  // namespace perceiver::kernels::cpu
