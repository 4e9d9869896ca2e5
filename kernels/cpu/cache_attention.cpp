// Attention of a few queries over the slots' KV caches, on the CPU: bound by reading each key and value once.
//
// Split-KV, as in flash decoding: a cache is split by its number of rows alone, and a task is one split of
// one slot with all heads, so that rows are read contiguously. Splits keep a running maximum and sum (online
// softmax), and their partial results are combined in order: results depend neither on the number of threads
// nor on other slots.
#include <Eigen/Core>

#include <cmath>
#include <limits>
#include <type_traits>

#include "kernels/attention.h"
#include "kernels/cpu/cache_attention.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

namespace perceiver::kernels::cpu {
namespace {

constexpr int64_t kTile = 64;
constexpr int64_t kAhead = 4;  // rows between a prefetch and its use
constexpr int kRows = 4;       // whose values are added together

/// Prefetches a row, in both of its halves: keys and values alternate, so that either alone is a pattern that
/// the hardware prefetcher does not follow.
template <typename T>
void prefetch(const T* row, int64_t elements) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < elements; i += kLine) __builtin_prefetch(row + i);
}

struct TileTag;
struct PartialTag;

/// A split's partial result for a query: per head the largest score, the sum of weights and the weighted sum
/// of values.
template <typename T>
struct Partial {
  T* data;
  int64_t heads, head_dim;
  T& largest(int64_t h) const { return data[h]; }
  T& sum(int64_t h) const { return data[heads + h]; }
  T* values(int64_t h) const { return data + 2 * heads + h * head_dim; }
  static int64_t size(int64_t heads, int64_t head_dim) { return heads * (2 + head_dim); }
};

/// Rescales the partial to the new maximum and turns a tile's scores [count] of one head into weights.
template <typename T>
void weigh(const Partial<T>& partial, int64_t h, T* scores, int64_t count) {
  Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1>> row(scores, count);
  const T largest = std::max(partial.largest(h), row.maxCoeff());
  const T shrink = std::exp(partial.largest(h) - largest);
  row = (row - largest).exp();
  partial.largest(h) = largest;
  partial.sum(h) = partial.sum(h) * shrink + row.sum();
  T* values = partial.values(h);
  for (int64_t c = 0; c < partial.head_dim; ++c) values[c] *= shrink;
}

/// C: the cache's type, T or Bf16.
template <typename T, typename C>
void attend_split(const CacheAttention& k, int64_t slot, int64_t query, int64_t begin, int64_t end,
                  const Partial<T>& partial) {
  const int64_t d = k.head_dim, width = k.heads * d;
  const T scale = static_cast<T>(1 / std::sqrt(static_cast<double>(d)));
  const T* q = static_cast<const T*>(k.q) + (slot * k.queries + query) * k.q_stride;
  const C* cache = static_cast<const C*>(k.cache) + slot * k.capacity * 2 * width;
  T* scores = scratch<TileTag, T>(static_cast<size_t>(k.heads * kTile));
  std::fill_n(partial.data, Partial<T>::size(k.heads, d), T(0));
  std::fill_n(partial.data, k.heads, -std::numeric_limits<T>::infinity());
  for (int64_t first = begin; first < end; first += kTile) {
    const int64_t count = std::min(kTile, end - first);
    for (int64_t n = 0; n < count; ++n) {
      const C* key = cache + (first + n) * 2 * width;
      if (first + n + kAhead < end) prefetch(key + kAhead * 2 * width, 2 * width);
      for (int64_t h = 0; h < k.heads; ++h) scores[h * kTile + n] = scale * dot(q + h * d, key + h * d, d);
    }
    for (int64_t h = 0; h < k.heads; ++h) weigh(partial, h, scores + h * kTile, count);
    const C* values = cache + first * 2 * width + width;
    int64_t n = 0;
    for (; n + kRows <= count; n += kRows)
      for (int64_t h = 0; h < k.heads; ++h)
        add_rows<kRows>(partial.values(h), values + n * 2 * width + h * d, 2 * width, scores + h * kTile + n,
                        d);
    for (; n < count; ++n)
      for (int64_t h = 0; h < k.heads; ++h)
        add_rows<1>(partial.values(h), values + n * 2 * width + h * d, 2 * width, scores + h * kTile + n, d);
  }
}

/// Combines the partials of one query.
template <typename T>
void combine(const CacheAttention& k, int64_t row, const T* partials, int64_t splits) {
  const int64_t size = Partial<T>::size(k.heads, k.head_dim);
  T* out = static_cast<T*>(k.out) + row * k.out_stride;
  for (int64_t h = 0; h < k.heads; ++h) {
    const auto partial = [&](int64_t s) {
      return Partial<T>{const_cast<T*>(partials) + s * size, k.heads, k.head_dim};
    };
    T largest = -std::numeric_limits<T>::infinity(), sum = 0;
    for (int64_t s = 0; s < splits; ++s) largest = std::max(largest, partial(s).largest(h));
    std::fill_n(out + h * k.head_dim, k.head_dim, T(0));
    for (int64_t s = 0; s < splits; ++s) {
      const T weight = std::exp(partial(s).largest(h) - largest);
      sum += weight * partial(s).sum(h);
      for (int64_t c = 0; c < k.head_dim; ++c) out[h * k.head_dim + c] += weight * partial(s).values(h)[c];
    }
    for (int64_t c = 0; c < k.head_dim; ++c) out[h * k.head_dim + c] *= splits > 0 ? 1 / sum : T(0);
    write_lse(k, row, h, largest, sum);
  }
}

template <typename T, typename C>
void attend(const CacheAttention& k) {
  const int64_t size = Partial<T>::size(k.heads, k.head_dim);
  T* partials = scratch<PartialTag, T>(static_cast<size_t>(k.slots * k.queries * kMaxSplits * size));
  const int64_t most = splits_of_longest(k);
  parallel_items(k.slots * most, [&](int64_t item) {
    const int64_t slot = item / most, s = item % most;
    const KvSplits splits(k.count[slot]);
    if (s >= splits.count) return;
    for (int64_t query = 0; query < k.queries; ++query) {
      const int64_t row = slot * k.queries + query;
      attend_split<T, C>(k, slot, query, splits.begin(s), splits.begin(s + 1),
                         {partials + (row * kMaxSplits + s) * size, k.heads, k.head_dim});
    }
  });
  for (int64_t row = 0; row < k.slots * k.queries; ++row)
    combine(k, row, partials + row * kMaxSplits * size, KvSplits(k.count[row / k.queries]).count);
}

}  // namespace

void cache_attention(const CacheAttention& k) {
  with_type(k.type, [&]<typename T>() {
    if (k.table != nullptr) return attend_by_table<T>(k);
    if constexpr (std::is_same_v<T, float>)
      if (k.cache_type == DType::bf16) return attend<T, Bf16>(k);
    attend<T, T>(k);
  });
}

}  // namespace perceiver::kernels::cpu
