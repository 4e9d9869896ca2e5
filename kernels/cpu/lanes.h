// Vectors of the machine's width: loads, stores and the sum of a vector's lanes.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/microkernel.h"

namespace perceiver::kernels::cpu {

template <typename T, int kBytes = kVectorBytes>
struct Lanes {
  typedef T Vector __attribute__((vector_size(kBytes)));
  static constexpr int64_t kCount = kBytes / static_cast<int64_t>(sizeof(T));

  static Vector load(const T* from) {
    Vector x;
    std::memcpy(&x, from, sizeof x);
    return x;
  }
  static void store(T* to, const Vector& x) { std::memcpy(to, &x, sizeof x); }

  /// Adds the halves, then their halves.
  static T sum(const Vector& x) {
    if constexpr (kCount == 1) {
      return x[0];
    } else {
      using Half = Lanes<T, kBytes / 2>;
      typename Half::Vector halves[2];
      std::memcpy(halves, &x, sizeof x);
      return Half::sum(halves[0] + halves[1]);
    }
  }
};

/// a · b. Four sums run side by side; with one, each addition would wait for the one before.
template <typename T>
inline T dot(const T* a, const T* b, int64_t n) {
  using L = Lanes<T>;
  constexpr int64_t kSums = 4, kStep = kSums * L::kCount;
  typename L::Vector sums[kSums] = {};
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep)
    for (int64_t s = 0; s < kSums; ++s)
      sums[s] += L::load(a + i + s * L::kCount) * L::load(b + i + s * L::kCount);
  for (; i + L::kCount <= n; i += L::kCount) sums[0] += L::load(a + i) * L::load(b + i);
  T total = L::sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < n; ++i) total += a[i] * b[i];
  return total;
}

/// target [n] += Σ weights[r] * rows [r * stride + ...], r < kRows: the target is read and written once for
/// all rows.
template <int kRows, typename T>
inline void add_rows(T* target, const T* rows, int64_t stride, const T* weights, int64_t n) {
  using L = Lanes<T>;
  int64_t i = 0;
  for (; i + L::kCount <= n; i += L::kCount) {
    typename L::Vector sum = L::load(target + i);
    for (int r = 0; r < kRows; ++r) sum += weights[r] * L::load(rows + r * stride + i);
    L::store(target + i, sum);
  }
  for (; i < n; ++i)
    for (int r = 0; r < kRows; ++r) target[i] += weights[r] * rows[r * stride + i];
}

}  // namespace perceiver::kernels::cpu
