// Loads and stores of N neighbouring elements in one access, with conversion to and from f32.
#pragma once

#include <initializer_list>

#include "kernels/cuda/support/common.cuh"

namespace perceiver::kernels::cuda {

/// Elements of T in the widest access, 16 bytes.
template <typename T>
inline constexpr int kWide = 16 / static_cast<int>(sizeof(T));

template <typename T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T x[N];
};

template <int N, typename T>
__device__ inline Pack<T, N> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}

template <int N, typename T>
__device__ inline void unpack(const Pack<T, N>& pack, float (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = to_float(pack.x[i]);
}

template <int N, typename T>
__device__ inline void load(const T* from, float (&x)[N]) {
  unpack(load_pack<N>(from), x);
}

template <int N, typename T>
__device__ inline void store(T* to, const float (&x)[N]) {
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; ++i) pack.x[i] = from_float<T>(x[i]);
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

/// x rounded to T.
template <typename T>
__device__ inline float rounded(float x) {
  return to_float(from_float<T>(x));
}

/// Whether all of these pointers (null ones aside) allow 16-byte accesses.
inline bool aligned(std::initializer_list<const void*> pointers) {
  for (const void* pointer : pointers)
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return false;
  return true;
}

/// Whether rows of `columns` elements of T can be read in wide accesses.
template <typename T>
bool wide_rows(int64_t columns, std::initializer_list<const void*> pointers) {
  return columns % kWide<T> == 0 && aligned(pointers);
}

/// Calls body.template operator()<N>() with N = kWide<T>, or 1 where the layout does not allow that.
template <typename T, typename Body>
void with_width(bool wide, Body&& body) {
  if (wide) {
    body.template operator()<kWide<T>>();
  } else {
    body.template operator()<1>();
  }
}

}  // namespace perceiver::kernels::cuda
