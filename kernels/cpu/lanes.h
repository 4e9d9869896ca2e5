// Vectors of the machine's width: loads, stores and the sum of a vector's lanes.
#pragma once

#include <bit>
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

/// A bf16 number: the upper half of a float.
struct Bf16 {
  uint16_t bits;
};

/// An element, and a vector of them, as they are computed with: bf16 as float.
template <typename T>
inline T widened(T x) {
  return x;
}
inline float widened(Bf16 x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}
template <typename T>
inline auto load_widened(const T* from) {
  return Lanes<T>::load(from);
}
inline Lanes<float>::Vector load_widened(const Bf16* from) {
  constexpr int kBytes = kVectorBytes / 2;
  typedef uint16_t Halves __attribute__((vector_size(kBytes)));
  typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  const Words words = __builtin_convertvector(halves, Words) << 16;
  return std::bit_cast<Lanes<float>::Vector>(words);
}

/// a · b, b being T or Bf16. Four sums run side by side; with one, each addition would wait for the one
/// before.
template <typename T, typename B>
inline T dot(const T* a, const B* b, int64_t n) {
  using L = Lanes<T>;
  constexpr int64_t kSums = 4, kStep = kSums * L::kCount;
  typename L::Vector sums[kSums] = {};
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep)
    for (int64_t s = 0; s < kSums; ++s)
      sums[s] += L::load(a + i + s * L::kCount) * load_widened(b + i + s * L::kCount);
  for (; i + L::kCount <= n; i += L::kCount) sums[0] += L::load(a + i) * load_widened(b + i);
  T total = L::sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < n; ++i) total += a[i] * widened(b[i]);
  return total;
}

/// target [n] += Σ weights[r] * rows [r * stride + ...], r < kRows: the target is read and written once for
/// all rows. They are T or Bf16.
template <int kRows, typename T, typename R>
inline void add_rows(T* target, const R* rows, int64_t stride, const T* weights, int64_t n) {
  using L = Lanes<T>;
  int64_t i = 0;
  for (; i + L::kCount <= n; i += L::kCount) {
    typename L::Vector sum = L::load(target + i);
    for (int r = 0; r < kRows; ++r) sum += weights[r] * load_widened(rows + r * stride + i);
    L::store(target + i, sum);
  }
  for (; i < n; ++i)
    for (int r = 0; r < kRows; ++r) target[i] += weights[r] * widened(rows[r * stride + i]);
}

}  // namespace perceiver::kernels::cpu
