// Attention over a context kept as token ids: keys and values are rows of a table.
//
// With q rotated, the score of a key of token t at position p is u[t] plus the sum over bands i of
// cos(p f_i) a[t, i] + sin(p f_i) b[t, i], where u is the dot product over the channels that are not rotated,
// and a = q_even k_even + q_odd k_odd and b = q_odd k_even - q_even k_odd those over the pairs. These are
// computed once per query and token; a key then costs 2 * bands multiplications per head, and its row is not
// read. Values: softmax weights are summed by token, and each token's value is read once.
//
// Heads are adjacent in vectors, [token, channel, heads] padded to whole vectors. Splits as in
// cache_attention.cpp.
#include <Eigen/Core>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "kernels/attention.h"
#include "kernels/cpu/cache_attention.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

namespace perceiver::kernels::cpu {
namespace {

constexpr int64_t kTile = 32;
constexpr int64_t kTaskTokens = 32;

template <typename T>
using Heads = Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1>>;
template <typename T>
using ConstHeads = Eigen::Map<const Eigen::Array<T, Eigen::Dynamic, 1>>;

struct MixTag;
struct HistogramTag;
struct TileTag;

template <typename T>
struct Layout {
  static constexpr int64_t kLanes = Lanes<T>::kCount;
  int64_t heads;     ///< padded
  int64_t channels;  ///< 1 + 2 * bands
  int64_t mix;       ///< elements of the mixed table of a query
  int64_t partial;   ///< elements of a split's result: largest, sum, weights by token
  explicit Layout(const CacheAttention& k)
      : heads((k.heads + kLanes - 1) / kLanes * kLanes),
        channels(1 + 2 * k.bands),
        mix(k.vocabulary * channels * heads),
        partial((2 + k.vocabulary) * heads) {}
};

/// mixed [channels, heads] of one token: u, then a and b of each band, times the scale.
template <typename T>
void mix_token(const CacheAttention& k, const Layout<T>& layout, const T* q, int64_t token, T* mixed) {
  const int64_t d = k.head_dim;
  const T scale = static_cast<T>(1 / std::sqrt(static_cast<double>(d)));
  const T* key = static_cast<const T*>(k.table) + token * 2 * k.heads * d;
  std::fill_n(mixed, layout.channels * layout.heads, T(0));
  for (int64_t h = 0; h < k.heads; ++h) {
    const int64_t bands = h < k.rotary_heads ? k.bands : 0;
    const T *x = q + h * d, *y = key + h * d;
    T rest = 0;
    for (int64_t c = 2 * bands; c < d; ++c) rest += x[c] * y[c];
    mixed[h] = scale * rest;
    for (int64_t i = 0; i < bands; ++i) {
      mixed[(1 + 2 * i) * layout.heads + h] = scale * (x[2 * i] * y[2 * i] + x[2 * i + 1] * y[2 * i + 1]);
      mixed[(2 + 2 * i) * layout.heads + h] = scale * (x[2 * i + 1] * y[2 * i] - x[2 * i] * y[2 * i + 1]);
    }
  }
}

/// scores [heads] of one key.
template <typename T>
void score(const CacheAttention& k, const Layout<T>& layout, const T* mixed, int64_t position, T* scores) {
  using L = Lanes<T>;
  const T* cosine = static_cast<const T*>(k.cosine) + std::abs(position) * k.bands;
  const T* sine = static_cast<const T*>(k.sine) + std::abs(position) * k.bands;
  const T sign = position < 0 ? T(-1) : T(1);
  for (int64_t h = 0; h < layout.heads; h += Layout<T>::kLanes) {
    const auto at = [&](int64_t channel) { return L::load(mixed + channel * layout.heads + h); };
    typename L::Vector even = at(0), odd = {};
    for (int64_t i = 0; i < k.bands; ++i) {
      even += cosine[i] * at(1 + 2 * i);
      odd += sine[i] * at(2 + 2 * i);
    }
    even += sign * odd;
    L::store(scores + h, even);
  }
}

template <typename T>
void attend_split(const CacheAttention& k, const Layout<T>& layout, int64_t slot, int64_t begin, int64_t end,
                  const T* mixed, T* partial) {
  const int64_t heads = layout.heads;
  std::fill_n(partial, layout.partial, T(0));
  Heads<T> largest(partial, heads), sum(partial + heads, heads);
  largest.setConstant(-std::numeric_limits<T>::infinity());
  T* histogram = partial + 2 * heads;
  T* scores = scratch<TileTag, T>(static_cast<size_t>((kTile + 1) * heads));
  Heads<T> shrink(scores + kTile * heads, heads);
  for (int64_t first = begin; first < end; first += kTile) {
    const int64_t count = std::min(kTile, end - first), cell = slot * k.capacity + first;
    for (int64_t n = 0; n < count; ++n)
      score(k, layout, mixed + k.tokens[cell + n] * layout.channels * heads, k.positions[cell + n],
            scores + n * heads);
    shrink = largest;
    for (int64_t n = 0; n < count; ++n) largest = largest.max(ConstHeads<T>(scores + n * heads, heads));
    if ((shrink != largest).any()) {
      shrink = (shrink - largest).exp();
      sum *= shrink;
      for (int64_t t = 0; t < k.vocabulary; ++t) Heads<T>(histogram + t * heads, heads) *= shrink;
    }
    for (int64_t n = 0; n < count; ++n) {
      Heads<T> weights(scores + n * heads, heads);
      weights = (weights - largest).exp();
      sum += weights;
      Heads<T>(histogram + k.tokens[cell + n] * heads, heads) += weights;
    }
  }
}

/// The output of one query: combines the weights by token of all splits, then adds the tokens' values.
template <typename T>
void combine(const CacheAttention& k, const Layout<T>& layout, int64_t row, T* partials, int64_t splits) {
  const int64_t heads = layout.heads, d = k.head_dim, width = k.heads * d;
  T* out = static_cast<T*>(k.out) + row * k.out_stride;
  std::fill_n(out, width, T(0));
  if (splits == 0) {
    for (int64_t h = 0; h < k.heads; ++h) write_lse(k, row, h, T(0), T(0));
    return;
  }
  Eigen::Array<T, Eigen::Dynamic, 1> largest = ConstHeads<T>(partials, heads);
  for (int64_t s = 1; s < splits; ++s)
    largest = largest.max(ConstHeads<T>(partials + s * layout.partial, heads));
  Heads<T> all(partials + heads,
               (1 + k.vocabulary) * heads);  // sum and weights of split 0, to which the others are added
  for (int64_t s = 0; s < splits; ++s) {
    T* partial = partials + s * layout.partial;
    const Eigen::Array<T, Eigen::Dynamic, 1> shrink = (ConstHeads<T>(partial, heads) - largest).exp();
    for (int64_t t = 0; t <= k.vocabulary; ++t) {
      const ConstHeads<T> own(partial + (1 + t) * heads, heads);
      Heads<T> target(partials + (1 + t) * heads, heads);
      if (s == 0) {
        target *= shrink;
      } else {
        target += shrink * own;
      }
    }
  }
  const T* values = static_cast<const T*>(k.table) + width;
  for (int64_t t = 0; t < k.vocabulary; ++t) {
    for (int64_t h = 0; h < k.heads; ++h) {
      const T weight = all[(1 + t) * heads + h];
      if (weight == T(0)) continue;
      for (int64_t c = h * d; c < (h + 1) * d; ++c) out[c] += weight * values[t * 2 * width + c];
    }
  }
  for (int64_t h = 0; h < k.heads; ++h) {
    for (int64_t c = h * d; c < (h + 1) * d; ++c) out[c] /= all[h];
    write_lse(k, row, h, largest[h], all[h]);
  }
}

}  // namespace

template <typename T>
void attend_by_table(const CacheAttention& k) {
  const Layout<T> layout(k);
  const int64_t rows = k.slots * k.queries;
  T* mixed = scratch<MixTag, T>(static_cast<size_t>(rows * layout.mix));
  T* partials = scratch<HistogramTag, T>(static_cast<size_t>(rows * kMaxSplits * layout.partial));
  const int64_t chunks = (k.vocabulary + kTaskTokens - 1) / kTaskTokens;
  parallel_items(rows * chunks, [&](int64_t item) {
    const int64_t row = item / chunks, first = item % chunks * kTaskTokens;
    if (k.count[row / k.queries] == 0) return;
    const T* q = static_cast<const T*>(k.q) + row * k.q_stride;
    for (int64_t t = first; t < std::min(k.vocabulary, first + kTaskTokens); ++t)
      mix_token(k, layout, q, t, mixed + row * layout.mix + t * layout.channels * layout.heads);
  });
  const int64_t most = splits_of_longest(k);
  parallel_items(rows * most, [&](int64_t item) {
    const int64_t row = item / most, s = item % most, slot = row / k.queries;
    const KvSplits splits(k.count[slot]);
    if (s >= splits.count) return;
    attend_split(k, layout, slot, splits.begin(s), splits.begin(s + 1), mixed + row * layout.mix,
                 partials + (row * kMaxSplits + s) * layout.partial);
  });
  parallel_items(rows, [&](int64_t row) {
    combine(k, layout, row, partials + row * kMaxSplits * layout.partial,
            KvSplits(k.count[row / k.queries]).count);
  });
}

template void attend_by_table<float>(const CacheAttention&);
template void attend_by_table<double>(const CacheAttention&);

}  // namespace perceiver::kernels::cpu
