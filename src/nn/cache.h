// Keys and values that generation keeps from pass to pass (docs/generation.md): the part of one attention
// layer in the caches of S slots, and what a pass does with it.
#pragma once

#include "core/tensor.h"
#include "ops/ops.h"

namespace perceiver {

/// A ring of rows for each slot, as kernels::CacheAttention reads it; W is the layer's width of keys.
struct LayerCache {
  int64_t capacity = 0;  ///< rows of a ring
  Tensor rings;          ///< [slots, capacity, 2 W], a row is K (rotated), then V; none: kept as tokens
  Tensor table;          ///< [V, 2 W]: K, not rotated, and V of each token; may be there beside `rings`
  Tensor tokens;         ///< i32 [slots, capacity]: what the ring's rows stand for, where kept as tokens
  Tensor positions;      ///< i32 [slots, capacity]
};

/// What one pass does with a layer's cache.
struct CachePass {
  LayerCache layer;
  /// Whether the pass has one token of each slot and attends over the rings; otherwise it is a whole pass of
  /// one sequence, whose keys and values are written to the start of `slot`'s ring beside what it does
  /// anyway.
  bool decode = false;
  int64_t slot = 0;
  Tensor active;  ///< i32 [slots] (decode)
  Tensor row;     ///< i32 [slots], ring row of the first new key (decode)
  Tensor count;   ///< i32 [slots], rows of the ring that are seen, the new ones included (decode)
};

/// Writes the columns from `column` on of `x`, keys and values of new rows, into the rings.
void write_cache(Tape& tape, const CachePass& pass, const Variable& x, int64_t column);

/// Attention of the rows of `q` [slots * queries, heads * head_dim ...] over the rings, or over the table.
Variable attend_cache(Tape& tape, const CachePass& pass, const Variable& q, int64_t heads, int64_t head_dim,
                      const ops::RotaryTable& rotary);

}  // namespace perceiver
