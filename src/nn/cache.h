// The KV cache of generation (docs/generation.md): one attention layer's part of the caches of S slots, and
// how a pass uses it.
#pragma once

#include <vector>

#include "perceiver/experimental/ops.h"
#include "perceiver/experimental/tensor.h"

namespace perceiver {

class Communicator;

/// A ring buffer of rows for each slot, as kernels::CacheAttention reads it; W is the width of the layer's
/// keys.
struct LayerCache {
  int64_t capacity = 0;  ///< rows per slot
  Tensor kv;             ///< [slots, capacity, 2 W], a row is K (rotated), then V; none: kept as tokens
  Tensor table;          ///< [V, 2 W]: K, not rotated, and V of each token; may be present along with `kv`
  Tensor tokens;         ///< i32 [slots, capacity], if kept as tokens
  Tensor positions;      ///< i32 [slots, capacity]
};

/// Slots that follow each other, and the sequence of the pass that the first of them has; a sequence has as
/// many rows as there are latents per token.
struct SlotRun {
  int64_t slot = 0, sequence = 0, count = 0;
};
/// Sequences of a pass over these runs.
int64_t sequences(const std::vector<SlotRun>& runs);

/// How a pass uses a layer's cache.
struct CachePass {
  LayerCache layer;
  std::vector<SlotRun> runs;  ///< the pass's sequences, in order
  /// Whether the pass has one token of each slot and attends to the cache; otherwise it is the prefill of one
  /// sequence, which also writes its keys and values to the start of its slot's cache.
  bool decode = false;
  int64_t newest = 0;  ///< prefill: write only so many of the last rows; 0: all
  Tensor active;       ///< i32 [slots] (decode)
  Tensor row;          ///< i32 [slots], row of the first new key (decode)
  Tensor count;        ///< i32 [slots], number of valid rows, including the new ones (decode)
};

/// Writes the columns of `x` from `column` on, keys and values of new rows, to the cache.
void write_cache(Tape& tape, const CachePass& pass, const Variable& x, int64_t column);

/// Attention of the rows of `q` [sequences * queries, heads * head_dim ...] to the cache, by rows or by
/// table; with a `group`, to the caches of all of its ranks, for all slots.
Variable attend_cache(Tape& tape, const CachePass& pass, const Variable& q, int64_t heads, int64_t head_dim,
                      const ops::RotaryTable& rotary, Communicator* group = nullptr);

}  // namespace perceiver
