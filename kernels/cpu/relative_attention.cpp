// Attention with relative positions on the CPU, tiled like attention.cpp: scores transposed, [kKeyTile keys,
// kQueryTile queries], softmax down the keys.
//
// A tile's distances are a band of kKeyTile + kQueryTile - 1 successive ones, or fewer where the last stands
// for all larger ones. The products of q + v with the band's rows are made once a tile, and each score takes
// its own from a diagonal of them; backward adds score gradients up along the same diagonals. Forward: one
// task per (example, head, query block). Backward: one per (example, head), with its own gradients of the
// positions and of the biases, which are then summed in order of the examples.
//
// Working memory per thread: the packed query block twice, two score tiles, the band; backward adds
// [distances
// + 2 * kQueryTile, head_dim] per (example, head). Linear in every size.
#include "kernels/relative_attention.h"

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/cpu/dropout.h"
#include "kernels/cpu/microkernel.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

namespace perceiver::kernels::cpu {
namespace {

constexpr int64_t kQueryTile = 64;
constexpr int64_t kKeyTile = 128;
constexpr int64_t kBand = kQueryTile + kKeyTile - 1;

template <typename T>
using Lanes = Eigen::Array<T, kQueryTile, 1>;
template <typename T>
using LanesMap = Eigen::Map<Lanes<T>>;
template <typename T>
using Row = Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1>>;
template <typename T>
using ConstRow = Eigen::Map<const Eigen::Array<T, Eigen::Dynamic, 1>>;

/// One head of one example.
template <typename T>
struct RelativeHead {
  const RelativeAttention& k;
  int64_t b, h;

  int64_t width() const { return k.heads * k.head_dim; }
  int64_t memory() const { return k.keys - k.queries; }
  int64_t query_offset() const { return b * k.queries * k.q_stride + h * k.head_dim; }
  int64_t key_offset() const { return b * k.keys * k.kv_stride + h * k.head_dim; }
  int64_t out_offset() const { return b * k.queries * k.out_stride + h * k.head_dim; }
  const T* query() const { return static_cast<const T*>(k.q) + query_offset(); }
  const T* key() const { return static_cast<const T*>(k.k) + key_offset(); }
  const T* value() const { return static_cast<const T*>(k.v) + key_offset(); }
  const T* content_bias() const { return static_cast<const T*>(k.content_bias) + h * k.head_dim; }
  const T* position_bias() const { return static_cast<const T*>(k.position_bias) + h * k.head_dim; }
  const T* positions() const { return static_cast<const T*>(k.positions) + h * k.head_dim; }
  T* lse() const { return static_cast<T*>(k.lse) + (b * k.heads + h) * k.queries; }
  T scale() const { return static_cast<T>(1 / std::sqrt(static_cast<double>(k.head_dim))); }
  int64_t first() const { return k.first == nullptr ? 0 : k.first[b]; }
  int64_t row_of(int64_t distance) const { return std::clamp<int64_t>(distance, 0, k.distances - 1); }
};

/// A block of queries and the keys it sees some of.
template <typename T>
struct QueryBlock {
  QueryBlock(const RelativeHead<T>& of, int64_t begin)
      : query(begin),
        count(std::min(kQueryTile, of.k.queries - begin)),
        key_end(of.memory() + begin + count) {
    key_begin = of.first();
    if (of.k.window > 0) key_begin = std::max(key_begin, of.memory() + begin - of.k.window + 1);
  }
  int64_t query, count, key_begin, key_end;
};

/// Keys [key, key + keys) of a block, and the rows of the table of positions that they need.
struct Tile {
  template <typename T>
  Tile(const RelativeHead<T>& head, const QueryBlock<T>& block, int64_t from)
      : key(from), keys(std::min(kKeyTile, block.key_end - from)) {
    nearest = head.memory() + block.query - (key + keys - 1);
    row = head.row_of(nearest);
    rows = head.row_of(head.memory() + block.query + block.count - 1 - key) - row + 1;
  }
  int64_t key, keys;
  int64_t nearest;    ///< distance of the block's first query from the tile's last key; may be negative
  int64_t row, rows;  ///< of the table
};

/// packed [head_dim, kQueryTile] = scale * (rows + bias) transposed, zero beyond `count`.
template <typename T>
void pack_biased(const T* rows, int64_t stride, int64_t count, int64_t head_dim, const T* bias, T scale,
                 T* packed) {
  std::fill_n(packed, head_dim * kQueryTile, T(0));
  for (int64_t i = 0; i < count; ++i)
    for (int64_t c = 0; c < head_dim; ++c)
      packed[c * kQueryTile + i] = scale * (rows[i * stride + c] + (bias == nullptr ? T(0) : bias[c]));
}

/// Calls visit(n, i, r) for the tile's key n, the block's query i and row r of the band, n major.
template <typename T, typename Visit>
void along_diagonals(const RelativeHead<T>& head, const QueryBlock<T>& block, const Tile& tile,
                     const Visit& visit) {
  for (int64_t n = 0; n < tile.keys; ++n)
    for (int64_t i = 0; i < block.count; ++i)
      visit(n, i, head.row_of(tile.nearest + (tile.keys - 1 - n) + i) - tile.row);
}

/// scores [keys, kQueryTile], hidden ones -infinity; `band` is overwritten.
template <typename T>
void tile_scores(const RelativeHead<T>& head, const QueryBlock<T>& block, const Tile& tile,
                 const T* packed_content, const T* packed_position, T* band, T* scores) {
  const RelativeAttention& k = head.k;
  multiply<T>(tile.keys, kQueryTile, k.head_dim, {head.key() + tile.key * k.kv_stride, k.kv_stride, 1},
              packed_content, kQueryTile, scores, kQueryTile, false);
  multiply<T>(tile.rows, kQueryTile, k.head_dim,
              {head.positions() + tile.row * head.width(), head.width(), 1}, packed_position, kQueryTile,
              band, kQueryTile, false);
  along_diagonals(head, block, tile, [&](int64_t n, int64_t i, int64_t r) {
    scores[n * kQueryTile + i] += band[r * kQueryTile + i];
  });
  constexpr T kHidden = -std::numeric_limits<T>::infinity();
  for (int64_t n = 0; n < tile.keys; ++n) {
    const int64_t nearest = tile.nearest + (tile.keys - 1 - n);  // distance of query 0
    T* row = scores + n * kQueryTile;
    for (int64_t i = 0; i < std::min(-nearest, kQueryTile); ++i) row[i] = kHidden;
    if (k.window > 0)
      for (int64_t i = std::max<int64_t>(0, k.window - nearest); i < kQueryTile; ++i) row[i] = kHidden;
  }
}

/// exp(scores - shift), exactly 0 for hidden ones.
template <typename T>
Lanes<T> exponential(const LanesMap<T>& scores, const Lanes<T>& shift) {
  return (scores == -std::numeric_limits<T>::infinity()).select(Lanes<T>::Zero(), (scores - shift).exp());
}

/// values *= the dropout factors of the tile.
template <typename T>
void drop(const RelativeHead<T>& head, const QueryBlock<T>& block, const Tile& tile, T* values) {
  if (head.k.dropout.threshold == 0) return;
  T factors[kKeyTile];
  for (int64_t i = 0; i < block.count; ++i) {
    const int64_t row = (head.b * head.k.heads + head.h) * head.k.queries + block.query + i;
    dropout_factors(head.k.dropout, row * head.k.keys + tile.key, tile.keys, factors);
    for (int64_t n = 0; n < tile.keys; ++n) values[n * kQueryTile + i] *= factors[n];
  }
}

struct RelativeForwardTag;

template <typename T>
void forward_block(const RelativeHead<T>& head, int64_t query) {
  const RelativeAttention& k = head.k;
  const int64_t d = k.head_dim;
  const QueryBlock<T> block(head, query);
  T* content = scratch<RelativeForwardTag, T>(static_cast<size_t>((3 * d + kKeyTile + kBand) * kQueryTile));
  T* position = content + d * kQueryTile;
  T* scores = position + d * kQueryTile;
  T* band = scores + kKeyTile * kQueryTile;
  T* out = band + kBand * kQueryTile;  // [kQueryTile, d]
  const T* q = head.query() + query * k.q_stride;
  pack_biased(q, k.q_stride, block.count, d, head.content_bias(), head.scale(), content);
  pack_biased(q, k.q_stride, block.count, d, head.position_bias(), head.scale(), position);
  std::fill_n(out, kQueryTile * d, T(0));
  Lanes<T> largest = Lanes<T>::Constant(-std::numeric_limits<T>::infinity()), sum = Lanes<T>::Zero();
  for (int64_t key = block.key_begin; key < block.key_end; key += kKeyTile) {
    const Tile tile(head, block, key);
    tile_scores(head, block, tile, content, position, band, scores);
    Lanes<T> new_largest = largest;
    for (int64_t n = 0; n < tile.keys; ++n)
      new_largest = new_largest.max(LanesMap<T>(scores + n * kQueryTile));
    // A row that sees nothing so far keeps -infinity; its scores stay hidden whatever is subtracted.
    const Lanes<T> shift =
        (new_largest == -std::numeric_limits<T>::infinity()).select(Lanes<T>::Zero(), new_largest);
    const Lanes<T> correction = (largest == new_largest).select(Lanes<T>::Ones(), (largest - shift).exp());
    largest = new_largest;
    sum *= correction;
    for (int64_t n = 0; n < tile.keys; ++n) {
      LanesMap<T> row(scores + n * kQueryTile);
      row = exponential<T>(row, shift);
      sum += row;
    }
    drop(head, block, tile, scores);
    for (int64_t i = 0; i < block.count; ++i) Row<T>(out + i * d, d) *= correction[i];
    multiply<T>(block.count, d, tile.keys, {scores, 1, kQueryTile}, head.value() + key * k.kv_stride,
                k.kv_stride, out, d, true);
  }
  T* target = static_cast<T*>(k.out) + head.out_offset() + query * k.out_stride;
  for (int64_t i = 0; i < block.count; ++i) {
    const bool blind = sum[i] == T(0);
    Row<T>(target + i * k.out_stride, d) = ConstRow<T>(out + i * d, d) * (blind ? T(0) : T(1) / sum[i]);
    head.lse()[query + i] = blind ? std::numeric_limits<T>::infinity() : largest[i] + std::log(sum[i]);
  }
}

/// What one (example, head) of backward keeps for the sums over examples.
template <typename T>
struct HeadSums {
  T* positions;      ///< [distances, d]
  T* content_bias;   ///< [d]
  T* position_bias;  ///< [d]
  static int64_t size(const RelativeAttention& k) { return (k.distances + 2) * k.head_dim; }
  static HeadSums at(T* base, const RelativeAttention& k) {
    T* biases = base + k.distances * k.head_dim;
    return {base, biases, biases + k.head_dim};
  }
};

/// Buffers of backward for one query block.
template <typename T>
struct BlockWork {
  T *content, *position, *d_out;        ///< packed
  T *content_rows, *position_rows;      ///< q + u, q + v [kQueryTile, d]
  T *d_content_rows, *d_position_rows;  ///< their gradients
  T *p, *ds, *band;
  static int64_t size(int64_t d) { return (7 * d + 2 * kKeyTile + kBand) * kQueryTile; }
  static BlockWork at(T* base, int64_t d) {
    const auto next = [&base](int64_t rows) { return std::exchange(base, base + rows * kQueryTile); };
    BlockWork work{};
    for (T** field : {&work.content, &work.position, &work.d_out, &work.content_rows, &work.position_rows,
                      &work.d_content_rows, &work.d_position_rows})
      *field = next(d);
    work.p = next(kKeyTile);
    work.ds = next(kKeyTile);
    work.band = next(kBand);
    return work;
  }
};

template <typename T>
void backward_tile(const RelativeAttentionBackward& a, const RelativeHead<T>& head,
                   const QueryBlock<T>& block, const Tile& tile, const BlockWork<T>& work,
                   const Lanes<T>& lse, const Lanes<T>& delta, const HeadSums<T>& sums) {
  const RelativeAttention& k = head.k;
  const int64_t d = k.head_dim, width = head.width();
  const T* key_rows = head.key() + tile.key * k.kv_stride;
  tile_scores(head, block, tile, work.content, work.position, work.band, work.p);
  multiply<T>(tile.keys, kQueryTile, d, {head.value() + tile.key * k.kv_stride, k.kv_stride, 1}, work.d_out,
              kQueryTile, work.ds, kQueryTile, false);
  drop(head, block, tile, work.ds);
  for (int64_t n = 0; n < tile.keys; ++n) {
    LanesMap<T> p(work.p + n * kQueryTile), ds(work.ds + n * kQueryTile);
    p = exponential<T>(p, lse);
    ds = p * (ds - delta) * head.scale();
  }
  drop(head, block, tile, work.p);
  const int64_t offset = head.key_offset() + tile.key * k.kv_stride;
  const T* d_out = static_cast<const T*>(a.d_out) + head.out_offset() + block.query * k.out_stride;
  multiply<T>(tile.keys, d, block.count, {work.p, kQueryTile, 1}, d_out, k.out_stride,
              static_cast<T*>(a.d_v) + offset, k.kv_stride, true);
  multiply<T>(tile.keys, d, block.count, {work.ds, kQueryTile, 1}, work.content_rows, d,
              static_cast<T*>(a.d_k) + offset, k.kv_stride, true);
  multiply<T>(block.count, d, tile.keys, {work.ds, 1, kQueryTile}, key_rows, k.kv_stride, work.d_content_rows,
              d, true);
  std::fill_n(work.band, tile.rows * kQueryTile, T(0));
  along_diagonals(head, block, tile, [&](int64_t n, int64_t i, int64_t r) {
    work.band[r * kQueryTile + i] += work.ds[n * kQueryTile + i];
  });
  multiply<T>(tile.rows, d, block.count, {work.band, kQueryTile, 1}, work.position_rows, d,
              sums.positions + tile.row * d, d, true);
  multiply<T>(block.count, d, tile.rows, {work.band, 1, kQueryTile}, head.positions() + tile.row * width,
              width, work.d_position_rows, d, true);
}

template <typename T>
void backward_block(const RelativeAttentionBackward& a, const RelativeHead<T>& head,
                    const QueryBlock<T>& block, const BlockWork<T>& work, const HeadSums<T>& sums) {
  const RelativeAttention& k = head.k;
  const int64_t d = k.head_dim;
  const T* q = head.query() + block.query * k.q_stride;
  const int64_t offset = head.out_offset() + block.query * k.out_stride;
  const T* out = static_cast<const T*>(k.out) + offset;
  const T* d_out = static_cast<const T*>(a.d_out) + offset;
  pack_biased(q, k.q_stride, block.count, d, head.content_bias(), head.scale(), work.content);
  pack_biased(q, k.q_stride, block.count, d, head.position_bias(), head.scale(), work.position);
  pack_biased<T>(d_out, k.out_stride, block.count, d, nullptr, T(1), work.d_out);
  Lanes<T> lse = Lanes<T>::Constant(std::numeric_limits<T>::infinity()), delta = Lanes<T>::Zero();
  for (int64_t i = 0; i < block.count; ++i) {
    lse[i] = head.lse()[block.query + i];
    const ConstRow<T> row(q + i * k.q_stride, d);
    Row<T>(work.content_rows + i * d, d) = row + ConstRow<T>(head.content_bias(), d);
    Row<T>(work.position_rows + i * d, d) = row + ConstRow<T>(head.position_bias(), d);
    for (int64_t c = 0; c < d; ++c) delta[i] += out[i * k.out_stride + c] * d_out[i * k.out_stride + c];
  }
  std::fill_n(work.d_content_rows, block.count * d, T(0));
  std::fill_n(work.d_position_rows, block.count * d, T(0));
  for (int64_t key = block.key_begin; key < block.key_end; key += kKeyTile)
    backward_tile(a, head, block, Tile(head, block, key), work, lse, delta, sums);
  T* d_q = static_cast<T*>(a.d_q) + head.query_offset() + block.query * k.q_stride;
  for (int64_t i = 0; i < block.count; ++i) {
    const ConstRow<T> content(work.d_content_rows + i * d, d), position(work.d_position_rows + i * d, d);
    Row<T>(d_q + i * k.q_stride, d) = content + position;
    Row<T>(sums.content_bias, d) += content;
    Row<T>(sums.position_bias, d) += position;
  }
}

struct RelativeBackwardTag;

template <typename T>
void backward_head(const RelativeAttentionBackward& a, const RelativeHead<T>& head, T* base) {
  const RelativeAttention& k = head.k;
  const int64_t d = k.head_dim;
  for (void* target : {a.d_k, a.d_v})
    for (int64_t n = 0; n < k.keys; ++n)
      std::fill_n(static_cast<T*>(target) + head.key_offset() + n * k.kv_stride, d, T(0));
  std::fill_n(base, HeadSums<T>::size(k), T(0));
  T* buffer = scratch<RelativeBackwardTag, T>(static_cast<size_t>(BlockWork<T>::size(d)));
  for (int64_t query = 0; query < k.queries; query += kQueryTile)
    backward_block(a, head, QueryBlock<T>(head, query), BlockWork<T>::at(buffer, d),
                   HeadSums<T>::at(base, k));
}

/// target (+)= the sum over examples of what the heads kept.
template <typename T>
void sum_examples(const RelativeAttention& k, const T* sums, int64_t offset, int64_t rows, T* target,
                  bool accumulate) {
  const int64_t d = k.head_dim;
  parallel_for(k.heads * rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t h = item % k.heads, r = item / k.heads;
      Row<T> row(target + (r * k.heads + h) * d, d);
      if (!accumulate) row.setZero();
      for (int64_t b = 0; b < k.batch; ++b)
        row += ConstRow<T>(sums + (b * k.heads + h) * HeadSums<T>::size(k) + offset + r * d, d);
    }
  });
}

template <typename T>
void relative_forward(const RelativeAttention& k) {
  const int64_t blocks = (k.queries + kQueryTile - 1) / kQueryTile, heads = k.batch * k.heads;
  // Late blocks see more keys, so they are scheduled first.
  parallel_items(heads * blocks, [&](int64_t item) {
    const int64_t head = item % heads, block = blocks - 1 - item / heads;
    forward_block(RelativeHead<T>{k, head / k.heads, head % k.heads}, block * kQueryTile);
  });
}

struct RelativeSumsTag;

template <typename T>
void relative_backward(const RelativeAttentionBackward& a) {
  const RelativeAttention& k = a.forward;
  const int64_t heads = k.batch * k.heads, d = k.head_dim;
  T* sums = scratch<RelativeSumsTag, T>(static_cast<size_t>(heads * HeadSums<T>::size(k)));
  parallel_items(heads, [&](int64_t head) {
    backward_head(a, RelativeHead<T>{k, head / k.heads, head % k.heads}, sums + head * HeadSums<T>::size(k));
  });
  sum_examples(k, sums, 0, k.distances, static_cast<T*>(a.d_positions), false);
  sum_examples(k, sums, k.distances * d, 1, static_cast<T*>(a.d_content_bias), a.accumulate_content_bias);
  sum_examples(k, sums, (k.distances + 1) * d, 1, static_cast<T*>(a.d_position_bias),
               a.accumulate_position_bias);
}

}  // namespace

void relative_attention(const RelativeAttention& k) {
  with_type(k.type, [&]<typename T>() { relative_forward<T>(k); });
}

void relative_attention_backward(const RelativeAttentionBackward& k) {
  with_type(k.forward.type, [&]<typename T>() { relative_backward<T>(k); });
}

}  // namespace perceiver::kernels::cpu
