// What the two ways of attending over rings share (cache_attention.cpp, table_attention.cpp).
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/attention.h"

namespace perceiver::kernels::cpu {

inline constexpr int64_t kMostRingParts = 16, kRowsOfARingPart = 256;

/// How `rows` rows are cut into parts.
struct RingParts {
  int64_t rows, count;
  explicit RingParts(int64_t n)
      : rows(n), count(std::min(kMostRingParts, (n + kRowsOfARingPart - 1) / kRowsOfARingPart)) {}
  int64_t begin(int64_t part) const { return rows * part / count; }
};

/// Parts of the longest ring; at least one.
inline int64_t most_parts(const CacheAttention& k) {
  const int32_t rows = *std::max_element(k.count, k.count + k.slots);
  return std::max<int64_t>(1, RingParts(rows).count);
}

/// CacheAttention with a table; T is float or double.
template <typename T>
void attend_by_table(const CacheAttention& k);

}  // namespace perceiver::kernels::cpu
