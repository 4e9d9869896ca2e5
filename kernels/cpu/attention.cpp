// Tiled attention with online softmax (Milakov & Gimelshein 2018; Dao et al. 2022), forward and backward, on
// the CPU.
//
// Scores are stored transposed, [kKeyTile keys, kQueryTile queries]: the softmax runs down the keys, so
// maxima and sums are plain vector operations across the queries, and only the small query block is packed;
// keys, values and gradients are read in place. Forward: one task per (example, head, query block), keys in
// tiles. Backward: one task per (example, head, part of the keys); a task owns its rows of dK and dV, and dQ
// is summed over the parts in order. The number of parts depends only on the shape, so results do not depend
// on the number of threads.
//
// Working memory per thread: the packed query block (2 * head_dim * 64), two score tiles (128 * 64) and the
// output block, about 200 KiB in float at head_dim 64; backward adds dQ of one head [queries, head_dim].
// Linear in every size.
#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention.h"
#include "kernels/cpu/microkernel.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

namespace perceiver::kernels::cpu {
namespace {

constexpr int64_t kQueryTile = 64;
constexpr int64_t kKeyTile = 128;

template <typename T>
using Lanes = Eigen::Array<T, kQueryTile, 1>;
template <typename T>
using LanesMap = Eigen::Map<Lanes<T>>;

/// One head of one example, with element strides.
template <typename T>
struct Head {
  const Attention& k;
  int64_t b, h;
  const T* q() const { return static_cast<const T*>(k.q) + b * k.queries * k.q_stride + h * k.head_dim; }
  const T* key() const { return static_cast<const T*>(k.k) + b * k.keys * k.kv_stride + h * k.head_dim; }
  const T* value() const { return static_cast<const T*>(k.v) + b * k.keys * k.kv_stride + h * k.head_dim; }
  int64_t out_offset() const { return b * k.queries * k.out_stride + h * k.head_dim; }
  T* lse() const { return static_cast<T*>(k.lse) + (b * k.heads + h) * k.queries; }
  const int32_t* limit() const { return k.limit + b * k.queries; }
  int64_t first() const { return k.first == nullptr ? 0 : k.first[b]; }
  const uint8_t* key_mask() const { return k.key_mask == nullptr ? nullptr : k.key_mask + b * k.keys; }
};

/// packed [head_dim, kQueryTile] = scale * rows [count, head_dim] transposed, zero beyond `count`.
template <typename T>
void pack_transposed(const T* rows, int64_t stride, int64_t count, int64_t head_dim, T scale, T* packed) {
  std::fill_n(packed, head_dim * kQueryTile, T(0));
  for (int64_t i = 0; i < count; ++i)
    for (int64_t c = 0; c < head_dim; ++c) packed[c * kQueryTile + i] = scale * rows[i * stride + c];
}

/// The last visible key + 1 of each query of a block; 0 beyond the block's `count`.
struct BlockLimits {
  int32_t limit[kQueryTile];
  int64_t smallest, largest;

  BlockLimits(const int32_t* limits, int64_t count) {
    std::fill_n(limit, kQueryTile, 0);
    std::copy_n(limits, count, limit);
    smallest = limit[0];
    largest = limit[count - 1];
  }
};

/// Sets the scores of masked keys to -infinity; false if all are visible. `query` is the block's first query.
template <typename T>
bool hide(const Head<T>& head, const BlockLimits& limits, int64_t key_begin, int64_t key_count, int64_t query,
          T* scores) {
  const uint8_t* mask = head.key_mask();
  const bool ragged = key_begin + key_count > limits.smallest;
  if (!ragged && mask == nullptr) return false;
  constexpr T kHidden = -std::numeric_limits<T>::infinity();
  for (int64_t n = 0; n < key_count; ++n) {
    const int32_t key = static_cast<int32_t>(key_begin + n);
    T* row = scores + n * kQueryTile;
    const int64_t own = key - query;
    const bool keeps_own = head.k.self_visible && own >= 0 && own < kQueryTile;
    const T own_score = keeps_own ? row[own] : T(0);
    if (mask != nullptr && mask[key] == 0) {
      std::fill_n(row, kQueryTile, kHidden);
      if (keeps_own) row[own] = own_score;
    }
    if (!ragged) continue;
    for (int64_t i = 0; i < kQueryTile; ++i) row[i] = key < limits.limit[i] ? row[i] : kHidden;
  }
  return true;
}

/// exp(scores - shift), and exactly 0 for hidden ones, for which Eigen's vectorised exp would give the
/// smallest normal number.
template <typename T>
Lanes<T> exponential(const LanesMap<T>& scores, const Lanes<T>& shift, bool some_hidden) {
  if (!some_hidden) return (scores - shift).exp();
  return (scores == -std::numeric_limits<T>::infinity()).select(Lanes<T>::Zero(), (scores - shift).exp());
}

struct ForwardTag;

template <typename T>
void forward_block(const Head<T>& head, int64_t query) {
  const Attention& k = head.k;
  const int64_t d = k.head_dim, count = std::min(kQueryTile, k.queries - query);
  T* packed_q = scratch<ForwardTag, T>(static_cast<size_t>((2 * d + kKeyTile) * kQueryTile));
  T* scores = packed_q + d * kQueryTile;
  T* out = scores + kKeyTile * kQueryTile;  // [kQueryTile, d]
  pack_transposed(head.q() + query * k.q_stride, k.q_stride, count, d,
                  static_cast<T>(1 / std::sqrt(static_cast<double>(d))), packed_q);
  std::fill_n(out, kQueryTile * d, T(0));
  Lanes<T> largest = Lanes<T>::Constant(-std::numeric_limits<T>::infinity()), sum = Lanes<T>::Zero();

  const BlockLimits limits(head.limit() + query, count);
  for (int64_t key = head.first(); key < limits.largest; key += kKeyTile) {
    const int64_t keys = std::min(kKeyTile, limits.largest - key);
    multiply<T>(keys, kQueryTile, d, {head.key() + key * k.kv_stride, k.kv_stride, 1}, packed_q, kQueryTile,
                scores, kQueryTile, false);
    const bool some_hidden = hide(head, limits, key, keys, query, scores);

    Lanes<T> new_largest = largest;
    for (int64_t n = 0; n < keys; ++n) new_largest = new_largest.max(LanesMap<T>(scores + n * kQueryTile));
    // A row without visible keys so far keeps -infinity; subtracting 0 from its scores leaves them hidden.
    const Lanes<T> shift =
        (new_largest == -std::numeric_limits<T>::infinity()).select(Lanes<T>::Zero(), new_largest);
    const Lanes<T> correction = (largest == new_largest).select(Lanes<T>::Ones(), (largest - shift).exp());
    largest = new_largest;
    sum *= correction;
    for (int64_t n = 0; n < keys; ++n) {
      LanesMap<T> row(scores + n * kQueryTile);
      row = exponential<T>(row, shift, some_hidden);
      sum += row;
    }
    for (int64_t i = 0; i < count; ++i)
      Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1>>(out + i * d, d) *= correction[i];
    multiply<T>(count, d, keys, {scores, 1, kQueryTile}, head.value() + key * k.kv_stride, k.kv_stride, out,
                d, true);
  }

  T* target = static_cast<T*>(k.out) + head.out_offset() + query * k.out_stride;
  for (int64_t i = 0; i < count; ++i) {
    const bool blind = sum[i] == T(0);
    const T inverse = blind ? T(0) : T(1) / sum[i];
    for (int64_t c = 0; c < d; ++c) target[i * k.out_stride + c] = out[i * d + c] * inverse;
    head.lse()[query + i] = blind ? std::numeric_limits<T>::infinity() : largest[i] + std::log(sum[i]);
  }
}

/// Keys [key_begin, key_end) of one head, with a dQ [queries, head_dim] of its own.
template <typename T>
struct BackwardTask {
  const AttentionBackward& k;
  Head<T> head;
  int64_t key_begin, key_end;
  T* d_q;
};

struct BackwardTag;

template <typename T>
void backward_tile(const BackwardTask<T>& task, int64_t query, int64_t key, int64_t keys, const T* packed_q,
                   const T* packed_d_out, const Lanes<T>& lse, const Lanes<T>& delta,
                   const BlockLimits& limits, T* p, T* ds) {
  const Attention& k = task.head.k;
  const int64_t d = k.head_dim, count = std::min(kQueryTile, k.queries - query);
  const T scale = static_cast<T>(1 / std::sqrt(static_cast<double>(d)));
  const T* key_rows = task.head.key() + key * k.kv_stride;
  const T* value_rows = task.head.value() + key * k.kv_stride;
  multiply<T>(keys, kQueryTile, d, {key_rows, k.kv_stride, 1}, packed_q, kQueryTile, p, kQueryTile, false);
  multiply<T>(keys, kQueryTile, d, {value_rows, k.kv_stride, 1}, packed_d_out, kQueryTile, ds, kQueryTile,
              false);
  const bool some_hidden = hide(task.head, limits, key, keys, query, p);
  for (int64_t n = 0; n < keys; ++n) {
    LanesMap<T> p_row(p + n * kQueryTile), ds_row(ds + n * kQueryTile);
    p_row = exponential<T>(p_row, lse, some_hidden);
    ds_row = p_row * (ds_row - delta) * scale;
  }
  const int64_t kv_offset = (task.head.b * k.keys + key) * k.kv_stride + task.head.h * d;
  const T* d_out = static_cast<const T*>(task.k.d_out) + task.head.out_offset() + query * k.out_stride;
  const T* q = task.head.q() + query * k.q_stride;
  multiply<T>(keys, d, count, {p, kQueryTile, 1}, d_out, k.out_stride,
              static_cast<T*>(task.k.d_v) + kv_offset, k.kv_stride, true);
  multiply<T>(keys, d, count, {ds, kQueryTile, 1}, q, k.q_stride, static_cast<T*>(task.k.d_k) + kv_offset,
              k.kv_stride, true);
  multiply<T>(count, d, keys, {ds, 1, kQueryTile}, key_rows, k.kv_stride, task.d_q + query * d, d, true);
}

template <typename T>
void clear_rows(T* rows, int64_t count, int64_t columns, int64_t stride) {
  for (int64_t i = 0; i < count; ++i) std::fill_n(rows + i * stride, columns, T(0));
}

template <typename T>
void backward_task(const BackwardTask<T>& task) {
  const Attention& k = task.head.k;
  const int64_t d = k.head_dim;
  const int64_t kv_offset = (task.head.b * k.keys + task.key_begin) * k.kv_stride + task.head.h * d;
  clear_rows(static_cast<T*>(task.k.d_k) + kv_offset, task.key_end - task.key_begin, d, k.kv_stride);
  clear_rows(static_cast<T*>(task.k.d_v) + kv_offset, task.key_end - task.key_begin, d, k.kv_stride);
  std::fill_n(task.d_q, k.queries * d, T(0));

  T* packed_q = scratch<BackwardTag, T>(static_cast<size_t>((2 * d + 2 * kKeyTile) * kQueryTile));
  T* packed_d_out = packed_q + d * kQueryTile;
  T* p = packed_d_out + d * kQueryTile;
  T* ds = p + kKeyTile * kQueryTile;
  for (int64_t query = 0; query < k.queries; query += kQueryTile) {
    const int64_t count = std::min(kQueryTile, k.queries - query);
    const BlockLimits limits(task.head.limit() + query, count);
    const int64_t begin = std::max(task.head.first(), task.key_begin),
                  end = std::min(limits.largest, task.key_end);
    if (begin >= end) continue;
    const T* out = static_cast<const T*>(k.out) + task.head.out_offset() + query * k.out_stride;
    const T* d_out = static_cast<const T*>(task.k.d_out) + task.head.out_offset() + query * k.out_stride;
    pack_transposed(task.head.q() + query * k.q_stride, k.q_stride, count, d,
                    static_cast<T>(1 / std::sqrt(static_cast<double>(d))), packed_q);
    pack_transposed(d_out, k.out_stride, count, d, T(1), packed_d_out);
    Lanes<T> lse = Lanes<T>::Constant(std::numeric_limits<T>::infinity()), delta = Lanes<T>::Zero();
    for (int64_t i = 0; i < count; ++i) {
      lse[i] = task.head.lse()[query + i];
      for (int64_t c = 0; c < d; ++c) delta[i] += out[i * k.out_stride + c] * d_out[i * k.out_stride + c];
    }
    for (int64_t key = begin; key < end; key += kKeyTile)
      backward_tile(task, query, key, std::min(kKeyTile, end - key), packed_q, packed_d_out, lse, delta,
                    limits, p, ds);
  }
}

template <typename T>
void forward(const Attention& k) {
  const int64_t blocks = (k.queries + kQueryTile - 1) / kQueryTile;
  // Late blocks see more keys, so they are scheduled first.
  parallel_items(k.batch * k.heads * blocks, [&](int64_t item) {
    const int64_t head = item % (k.batch * k.heads), block = blocks - 1 - item / (k.batch * k.heads);
    forward_block(Head<T>{k, head / k.heads, head % k.heads}, block * kQueryTile);
  });
}

struct PartialTag;

template <typename T>
void backward(const AttentionBackward& a) {
  const Attention& k = a.forward;
  constexpr int64_t kWantedTasks = 32;
  const int64_t heads = k.batch * k.heads, d = k.head_dim;
  const int64_t parts =
      std::clamp<int64_t>(k.keys / (4 * kKeyTile), 1, std::max<int64_t>(1, kWantedTasks / heads));
  T* partial = scratch<PartialTag, T>(static_cast<size_t>(heads * parts * k.queries * d));
  parallel_items(heads * parts, [&](int64_t item) {
    const int64_t head = item / parts, part = item % parts;
    backward_task(BackwardTask<T>{a, Head<T>{k, head / k.heads, head % k.heads}, k.keys * part / parts,
                                  k.keys * (part + 1) / parts, partial + item * k.queries * d});
  });
  parallel_for(heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t head = begin; head < end; ++head) {
      T* d_q = static_cast<T*>(a.d_q) + (head / k.heads) * k.queries * k.q_stride + (head % k.heads) * d;
      for (int64_t i = 0; i < k.queries; ++i) {
        Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1>> target(d_q + i * k.q_stride, d);
        target.setZero();
        for (int64_t part = 0; part < parts; ++part)
          target += Eigen::Map<const Eigen::Array<T, Eigen::Dynamic, 1>>(
              partial + ((head * parts + part) * k.queries + i) * d, d);
      }
    }
  });
}

}  // namespace

void attention(const Attention& k) {
  with_type(k.type, [&]<typename T>() { forward<T>(k); });
}

void attention_backward(const AttentionBackward& k) {
  with_type(k.forward.type, [&]<typename T>() { backward<T>(k); });
  if (k.q_rotary.positions != nullptr) rotary(inverse_q_rotation(k));
  if (k.k_rotary.positions != nullptr) rotary(inverse_k_rotation(k));
}

}  // namespace perceiver::kernels::cpu
