// Attention whose keys are spread over ranks.
#pragma once

#include "perceiver/experimental/ops.h"

namespace perceiver {
class Communicator;
}

namespace perceiver::ops {

/// The ranks that share the keys of an attention: each has all queries, and keys of its own.
struct KeyShards {
  Communicator* group = nullptr;  ///< null: this rank has all keys
  /// Whether backward replicates the gradient of the queries by an all-reduce, as a sharded attention below
  /// needs it, or leaves each rank the share that comes from its own keys.
  bool replicates_d_q = false;
};

/// attention() over the keys of all ranks together; in.kv and the mask's keys are this rank's. The result is
/// the same bits on every rank. Gradients are shares: their sums over the ranks are the gradients
/// (sharded_attention.cpp).
Variable sharded_attention(Tape& tape, const AttentionInputs& inputs, const AttentionMask& mask,
                           const KeyShards& shards);

}  // namespace perceiver::ops
