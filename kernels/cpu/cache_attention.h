// Shared by the two forms of cache attention (cache_attention.cpp, table_attention.cpp).
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/attention.h"

namespace perceiver::kernels::cpu {

inline constexpr int64_t kMaxSplits = 16, kRowsPerSplit = 256;  // longer caches have longer splits

/// How a cache of `rows` rows is split.
struct KvSplits {
  int64_t rows, count;
  explicit KvSplits(int64_t n)
      : rows(n), count(std::min(kMaxSplits, (n + kRowsPerSplit - 1) / kRowsPerSplit)) {}
  int64_t begin(int64_t split) const { return rows * split / count; }
};

/// Splits of the longest cache; at least one.
inline int64_t splits_of_longest(const CacheAttention& k) {
  const int32_t rows = *std::max_element(k.count, k.count + k.slots);
  return std::max<int64_t>(1, KvSplits(rows).count);
}

/// CacheAttention with a table; T is float or double.
template <typename T>
void attend_by_table(const CacheAttention& k);

}  // namespace perceiver::kernels::cpu
