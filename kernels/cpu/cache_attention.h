// What the two ways of attending over rings share (cache_attention.cpp, table_attention.cpp).
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/attention.h"

namespace perceiver::kernels::cpu {

inline constexpr int64_t kMaxSplits = 16, kRowsPerSplit = 256;

/// How `rows` rows are cut into parts.
struct KvSplits {
  int64_t rows, count;
  explicit KvSplits(int64_t n)
      : rows(n), count(std::min(kMaxSplits, (n + kRowsPerSplit - 1) / kRowsPerSplit)) {}
  int64_t begin(int64_t part) const { return rows * part / count; }
};

/// Parts of the longest ring; at least one.
inline int64_t max_splits(const CacheAttention& k) {
  const int32_t rows = *std::max_element(k.count, k.count + k.slots);
  return std::max<int64_t>(1, KvSplits(rows).count);
}

/// CacheAttention with a table; T is float or double.
template <typename T>
void attend_by_table(const CacheAttention& k);

}  // namespace perceiver::kernels::cpu
