// Sums of products of 16-bit integers in 32-bit lanes, the pairs of neighbours together: an instruction (or
// two) on every x86-64 processor, with twice the elements of a vector of floats.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace perceiver::kernels::cpu {

#if defined(__AVX512BW__)

struct IntegerVector {
  static constexpr int64_t kElements = 32;
  __m512i v;
};
inline IntegerVector integer_zero() {
  return {_mm512_setzero_si512()};
}
inline IntegerVector load_integers(const int16_t* from) {
  return {_mm512_loadu_si512(from)};
}
inline IntegerVector load_integers(const int8_t* from) {
  return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
}
inline void add_products(IntegerVector& sum, IntegerVector a, IntegerVector b) {
  sum.v = _mm512_add_epi32(sum.v, _mm512_madd_epi16(a.v, b.v));
}

// AVX-512 VNNI multiplies and adds in one instruction. It is no variant of its own (base/cpu_variant.h): only
// functions marked so have it, to be called if has_vnni().
#define PERCEIVER_VNNI [[gnu::target("avx512vnni")]]
PERCEIVER_VNNI inline void add_products_vnni(IntegerVector& sum, IntegerVector a, IntegerVector b) {
  sum.v = _mm512_dpwssd_epi32(sum.v, a.v, b.v);
}
inline bool has_vnni() {
  static const bool has = __builtin_cpu_supports("avx512vnni") != 0;
  return has;
}

#elif defined(__AVX2__)

struct IntegerVector {
  static constexpr int64_t kElements = 16;
  __m256i v;
};
inline IntegerVector integer_zero() {
  return {_mm256_setzero_si256()};
}
inline IntegerVector load_integers(const int16_t* from) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))};
}
inline IntegerVector load_integers(const int8_t* from) {
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
}
inline void add_products(IntegerVector& sum, IntegerVector a, IntegerVector b) {
  sum.v = _mm256_add_epi32(sum.v, _mm256_madd_epi16(a.v, b.v));
}

#elif defined(__SSE2__)

struct IntegerVector {
  static constexpr int64_t kElements = 8;
  __m128i v;
};
inline IntegerVector integer_zero() {
  return {_mm_setzero_si128()};
}
inline IntegerVector load_integers(const int16_t* from) {
  return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))};
}
inline IntegerVector load_integers(const int8_t* from) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  return {_mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8)};
}
inline void add_products(IntegerVector& sum, IntegerVector a, IntegerVector b) {
  sum.v = _mm_add_epi32(sum.v, _mm_madd_epi16(a.v, b.v));
}

#else

/// Two products in one lane.
struct IntegerVector {
  static constexpr int64_t kElements = 2;
  int32_t first, second;
};
inline IntegerVector integer_zero() {
  return {0, 0};
}
template <typename T>
IntegerVector load_integers(const T* from) {
  return {from[0], from[1]};
}
inline void add_products(IntegerVector& sum, IntegerVector a, IntegerVector b) {
  sum.first += a.first * b.first + a.second * b.second;
}

#endif

#if !defined(PERCEIVER_VNNI)
#define PERCEIVER_VNNI
inline void add_products_vnni(IntegerVector& sum, IntegerVector a, IntegerVector b) {
  add_products(sum, a, b);
}
inline constexpr bool has_vnni() {
  return false;
}
#endif

#if defined(__AVX512BW__)

/// The sum of all lanes. A tile has up to 16 such sums for some thirty products each: lane by lane they would
/// take a quarter of its time. By value throughout: a sum whose address is taken would be kept in memory.
inline int64_t lane_sum(IntegerVector sum) {
  typedef int64_t Wide __attribute__((vector_size(64)));
  const Wide pairs = reinterpret_cast<Wide>(sum.v), wide = (pairs >> 32) + ((pairs << 32) >> 32);
  const auto four =
      __builtin_shufflevector(wide, wide, 0, 1, 2, 3) + __builtin_shufflevector(wide, wide, 4, 5, 6, 7);
  const auto two = __builtin_shufflevector(four, four, 0, 1) + __builtin_shufflevector(four, four, 2, 3);
  return (two + __builtin_shufflevector(two, two, 1, 0))[0];
}

#else

/// The sum of all lanes.
inline int64_t lane_sum(IntegerVector sum) {
  int32_t lanes[sizeof(IntegerVector) / sizeof(int32_t)];
  std::memcpy(lanes, &sum, sizeof sum);
  int64_t total = 0;
  for (const int32_t lane : lanes) total += lane;
  return total;
}

#endif

}  // namespace perceiver::kernels::cpu
