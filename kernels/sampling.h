// Kernels of generation: what one token more for each of S slots (sequences decoded together) needs. The
// results of a slot are the same bits whatever the other slots hold and however many there are. Part of the
// interface in kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace perceiver::kernels {

/// Writes new rows into the slots' rings: row s * copies + c of `source` becomes row (row[s] + c) % capacity
/// of ring s of `target` [slots, capacity, columns].
struct WriteRows {
  DType type;
  int64_t slots, copies, columns;
  const void* source;
  int64_t source_stride;
  const int32_t* row;     // [slots]; null: 0
  const int32_t* active;  // [slots], slots with 0 write nothing; null: all write
  void* target;
  int64_t capacity;
};

/// How a slot's tokens are chosen.
struct SampleSettings {
  double temperature = 1;  // 0: the likeliest
  double top_p = 1, min_p = 0;
  double repetition_penalty =
      1;  // logits of tokens that occurred: divided by it where positive, else multiplied
  uint64_t seed = 0;
  uint32_t sequence = 0;    // Philox: the number drawn depends on (seed, sequence, step) alone
  int32_t top_k = 0;        // 0: off
  int32_t bias_row = -1;    // first of this slot's rows of Sample::bias; -1: none
  int32_t bias_period = 1;  // in step t, bias row bias_row + t % bias_period is added to the logits
  int32_t may_end = 1;      // whether EOS can be chosen; PAD and SOS never are
};

/// After a step: the slots' place in their rings moves on by one token. All arrays are [slots].
struct AdvanceSlots {
  int64_t slots, context_capacity, latent_capacity, copies;  // copies: latents of a token
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

/// Chooses a token for each active slot from its logits. With l' = logits after penalty and bias, the weight
/// of a token is floor(2^40 exp((l' - max l') / temperature)), an integer, so that sums do not depend on
/// their order; kept are the top_k largest, of these those of at least min_p times the largest, of these the
/// fewest largest that reach top_p of the sum (ties: smaller ids first). The token is the first, in the order
/// of ids, at which the kept weights' running sum exceeds a uniform 64-bit number's share of their total.
struct Sample {
  DType type;
  int64_t slots, vocabulary;
  const void* logits;              // [slots, vocabulary]
  const SampleSettings* settings;  // [slots]
  const float* bias;               // rows of `vocabulary`; -infinity: never; null where no slot has any
  uint8_t* seen;                   // [slots, vocabulary]: whether the token occurred; updated
  const int32_t* step;             // [slots]: how many tokens the slot chose before
  const int32_t* active;           // [slots]
  // Where the logits are not finite or nothing may be chosen: PAD, with NaN.
  int32_t* token;           // [slots]
  double* log_probability;  // [slots], nats: of the logits as they are
  int32_t* posted;          // [slots]: the tokens once more, where the host reads them; null: nowhere
  AdvanceSlots next;        // then the active slots move on; next.slots is 0: they do not
};

PERCEIVER_KERNEL(write_rows, WriteRows)
PERCEIVER_KERNEL(sample, Sample)

}  // namespace perceiver::kernels
