// The operations of Transformer-XL: attention with relative positions, and memory before a segment (Dai et
// al. 2019, sections 3.2 and 3.3).
#pragma once

#include "perceiver/experimental/ops.h"

namespace perceiver::ops {

/// Heads of q, k and v are contiguous blocks of head_dim columns.
struct RelativeAttentionInputs {
  Variable q;              ///< [batch * queries, W], W = heads * head_dim
  Variable kv;             ///< [batch * keys, 2 W]: K, then V
  Variable content_bias;   ///< u [heads, head_dim]
  Variable position_bias;  ///< v, likewise
  Variable positions;      ///< [distances, W], the last one stands for all larger distances
  int64_t batch = 0, heads = 0, head_dim = 0;
  int64_t window = 0;     ///< keys that each query sees; 0: no limit
  Tensor first_key = {};  ///< i32 [batch], the first key that is seen; none: 0
  double dropout = 0;     ///< of attention weights, in training
};

/// [batch * queries, W]: softmax(((q + u) kᵀ + (q + v) rᵀ) / sqrt(head_dim)) v of each head, where query i
/// sees the keys up to keys - queries + i, and r is that of the distance. No score matrix in memory. Throws
/// `user` for operands that do not fit together.
Variable relative_attention(Tape& tape, const RelativeAttentionInputs& inputs);

/// A segment's memory: `length` rows of each example, of which the last remembered[b] count, the others are
/// 0.
struct MemoryRows {
  int64_t length = 0;
  Tensor hidden = {};      ///< [batch * length, columns]; none: all 0
  Tensor remembered = {};  ///< i32 [batch]
};
/// [batch * (length + rows), columns]: each example's memory, then its rows of x.
Variable prepend_memory(Tape& tape, const MemoryRows& memory, const Variable& x, int64_t batch);
/// Writes the last `length` of these rows of each example to `next` [batch * length, columns].
void remember(Tape& tape, const MemoryRows& memory, const Tensor& x, int64_t batch, const Tensor& next);

/// factor * x.
Variable scaled(Tape& tape, const Variable& x, double factor);

}  // namespace perceiver::ops
