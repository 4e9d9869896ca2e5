// Shared by the two forms of cache attention (cache_attention.cpp, table_attention.cpp).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

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

/// Writes a log-sum-exp, if wanted: of head `h` of row `row` of queries. `sum` is 0 where there is no row.
template <typename T>
void write_lse(const CacheAttention& k, int64_t row, int64_t h, T largest, T sum) {
  if (k.lse == nullptr) return;
  T* lse = static_cast<T*>(k.lse) + (row / k.queries * k.heads + h) * k.queries + row % k.queries;
  *lse = sum == T(0) ? std::numeric_limits<T>::infinity() : largest + std::log(sum);
}

/// CacheAttention with a table; T is float or double.
template <typename T>
void attend_by_table(const CacheAttention& k);

}  // namespace perceiver::kernels::cpu
