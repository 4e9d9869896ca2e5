// Joins attention over parts of the keys by their log-sum-exp, row by row and head by head.
#include "kernels/attention_join.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/row.h"

namespace perceiver::kernels::cpu {
namespace {

constexpr int64_t kRowsPerPart = 16;

/// Element `place` of part p of an array of parts.
template <typename T>
const T* part_of(const void* first, int64_t part_bytes, int64_t p, int64_t place) {
  return reinterpret_cast<const T*>(static_cast<const char*>(first) + p * part_bytes) + place;
}

/// exp(lse - largest); 0 for a part that saw nothing.
template <typename T>
T weight_of(T lse, T largest) {
  return lse == std::numeric_limits<T>::infinity() ? T(0) : std::exp(lse - largest);
}

/// One head of one row: `out_place` and `lse_place` are its elements in the arrays of a part.
template <typename T>
void join_head(const AttentionJoin& k, int64_t out_place, int64_t lse_place) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const auto lse = [&](int64_t p) { return *part_of<T>(k.part_lse, k.part_bytes, p, lse_place); };
  T largest = -kInfinity, sum = 0;
  for (int64_t p = 0; p < k.parts; ++p)
    if (lse(p) != kInfinity) largest = std::max(largest, lse(p));
  for (int64_t p = 0; p < k.parts; ++p) sum += weight_of(lse(p), largest);
  const bool blind = sum == T(0);
  Row<T> out(static_cast<T*>(k.out) + out_place, k.head_dim);
  out.setZero();
  for (int64_t p = 0; p < k.parts; ++p)
    out += (blind ? T(0) : weight_of(lse(p), largest) / sum) *
           ConstRow<T>(part_of<T>(k.part_out, k.part_bytes, p, out_place), k.head_dim);
  static_cast<T*>(k.lse)[lse_place] = blind ? kInfinity : largest + std::log(sum);
}

template <typename T>
void join(const AttentionJoin& k) {
  parallel_for(k.batch * k.queries, kRowsPerPart, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / k.queries, i = row % k.queries;
      for (int64_t h = 0; h < k.heads; ++h)
        join_head<T>(k, (row * k.heads + h) * k.head_dim, (b * k.heads + h) * k.queries + i);
    }
  });
}

}  // namespace

void attention_join(const AttentionJoin& k) {
  with_type(k.type, [&]<typename T>() { join<T>(k); });
}

}  // namespace perceiver::kernels::cpu
