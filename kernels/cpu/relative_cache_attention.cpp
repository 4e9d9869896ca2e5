// Relative attention of one query per slot to a ring buffer of keys and values.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/relative_attention.h"

namespace perceiver::kernels::cpu {
namespace {

struct CacheScoresTag;
struct BiasedQueriesTag;

/// q + bias.
template <typename T>
void add_bias(const T* q, const T* bias, int64_t n, T* to) {
  for (int64_t c = 0; c < n; ++c) to[c] = q[c] + bias[c];
}

/// C: the cache's type, T or Bf16.
template <typename T, typename C>
void attend_slot(const RelativeCacheAttention& k, int64_t s, int64_t h) {
  const int64_t d = k.head_dim, width = k.heads * d, offset = h * d;
  const T* q = static_cast<const T*>(k.q) + s * k.q_stride + offset;
  const C* cache = static_cast<const C*>(k.cache) + s * k.capacity * 2 * width + offset;
  const T* content_bias = static_cast<const T*>(k.content_bias) + offset;
  const T* position_bias = static_cast<const T*>(k.position_bias) + offset;
  const T* positions = static_cast<const T*>(k.positions) + offset;
  T* out = static_cast<T*>(k.out) + s * k.out_stride + offset;
  const int64_t count = k.window > 0 ? std::min<int64_t>(k.count[s], k.window) : k.count[s];
  const auto row = [&](int64_t distance) {
    return cache + (k.row[s] - distance + k.capacity) % k.capacity * 2 * width;
  };
  T* scores = scratch<CacheScoresTag, T>(static_cast<size_t>(std::max<int64_t>(1, count)));
  T *content = scratch<BiasedQueriesTag, T>(static_cast<size_t>(2 * d)), *position = content + d;
  add_bias(q, content_bias, d, content);
  add_bias(q, position_bias, d, position);
  const T scale = static_cast<T>(1 / std::sqrt(static_cast<double>(d)));
  T largest = -std::numeric_limits<T>::infinity(), sum = 0;
  for (int64_t t = 0; t < count; ++t) {
    const T* distance = positions + std::min(t, k.distances - 1) * width;
    scores[t] = scale * (dot(content, row(t), d) + dot(position, distance, d));
    largest = std::max(largest, scores[t]);
  }
  for (int64_t t = 0; t < count; ++t) sum += scores[t] = std::exp(scores[t] - largest);
  std::fill_n(out, d, T(0));
  for (int64_t t = 0; t < count; ++t) {
    const T weight = scores[t] / sum;
    add_rows<1>(out, row(t) + width, 0, &weight, d);
  }
}

template <typename T, typename C>
void attend(const RelativeCacheAttention& k) {
  parallel_items(k.slots * k.heads,
                 [&](int64_t item) { attend_slot<T, C>(k, item / k.heads, item % k.heads); });
}

}  // namespace

void relative_cache_attention(const RelativeCacheAttention& k) {
  with_type(k.type, [&]<typename T>() {
    if constexpr (std::is_same_v<T, float>)
      if (k.cache_type == DType::bf16) return attend<T, Bf16>(k);
    attend<T, T>(k);
  });
}

}  // namespace perceiver::kernels::cpu
