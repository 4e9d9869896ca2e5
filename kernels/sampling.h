// Kernels of generation: one more token for each of S slots (sequences decoded together). Batch-invariant: a
// slot's results are bit for bit the same whatever the other slots hold and however many there are. Part of
// the interface in kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace perceiver::kernels {

/// Writes new rows into the slots' ring buffers: row s * copies + c of `source` goes to row (row[s] + c) %
/// capacity of slot s of `target` [slots, capacity, columns].
struct WriteRows {
  DType type;
  int64_t slots, copies, columns;
  const void* source;
  int64_t source_stride;
  const int32_t* row = nullptr;     // [slots]; null: 0
  const int32_t* active = nullptr;  // [slots], slots with 0 write nothing; null: all write
  void* target;
  int64_t capacity;
};

/// Ranks share the slots' ring buffers: row r is with rank r % ranks, which keeps it as its row r / ranks.
/// Given the slots' counts and places in the whole, those of this rank's part; a slot is active where it
/// writes the row. All arrays are [slots].
struct ShareSlots {
  int64_t slots;
  int32_t rank, ranks;
  const int32_t *active, *count, *row;
  int32_t *own_active, *own_count, *own_row;
};

/// How a slot's tokens are sampled.
struct SamplingParameters {
  double temperature = 1;  // 0: greedy
  double top_p = 1, min_p = 0;
  // Logits of tokens that occurred are divided by this if positive, else multiplied.
  double repetition_penalty = 1;
  uint64_t seed = 0;
  uint32_t sequence = 0;    // Philox: the number drawn depends only on (seed, sequence, step)
  int32_t top_k = 0;        // 0: off
  int32_t bias_row = -1;    // first of this slot's rows of Sample::bias; -1: none
  int32_t bias_period = 1;  // in step t, bias row bias_row + t % bias_period is added to the logits
  int32_t allow_eos = 1;    // whether EOS may be chosen; PAD and SOS never are
};

/// Advances the slots' places in their ring buffers by one token, after a step. All arrays are [slots].
struct AdvanceSlots {
  int64_t slots, context_capacity, latent_capacity, copies;  // copies: latents per token
  const int32_t* active;
  int32_t* step;
  int32_t* position;
  int32_t* context_count;
  int32_t* context_row;
  int32_t* latent_count;
  int32_t* latent_row;
  int32_t* query_position;  // [slots * copies] = position + query_offset
  int32_t query_offset;
};

/// Samples a token for each active slot from its logits. With l' = logits after penalty and bias, the weight
/// of a token is floor(2^40 exp((l' - max l') / temperature)), an integer, so that sums do not depend on
/// their order. Kept are the top_k largest; of these, those of at least min_p times the largest; of these,
/// the fewest largest that reach top_p of the sum (ties: smaller ids first). The token is the first, in order
/// of id, at which the running sum of the kept weights exceeds a uniform 64-bit number's share of their
/// total.
struct Sample {
  DType type;
  int64_t slots, vocabulary;
  const void* logits;                    // [slots, vocabulary]
  const SamplingParameters* parameters;  // [slots]
  const float* bias = nullptr;           // rows of `vocabulary`; -infinity: never; null: no slot has any
  uint8_t* seen;                         // [slots, vocabulary]: whether the token occurred; updated
  const int32_t* step;                   // [slots]: number of tokens the slot has chosen so far
  const int32_t* active;                 // [slots]
  // If the logits are not finite or no token may be chosen: PAD, with NaN.
  int32_t* token;             // [slots]
  double* log_probability;    // [slots], nats, under the unmodified logits
  int32_t* posted = nullptr;  // [slots]: a second copy of the tokens, where the host reads them
  AdvanceSlots next = {};     // the active slots then advance, unless next.slots is 0
};

PERCEIVER_KERNEL(share_slots, ShareSlots)
PERCEIVER_KERNEL(write_rows, WriteRows)
PERCEIVER_KERNEL(sample, Sample)

}  // namespace perceiver::kernels
