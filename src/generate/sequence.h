// What the engine takes and gives: sequences to continue, and the tokens chosen for them.
#pragma once

#include <cstdint>
#include <vector>

#include "generate/engine_options.h"
#include "kernels/sampling.h"

namespace perceiver {

/// A sequence to continue, and how.
struct Sequence {
  std::vector<int32_t> tokens;
  /// Positions of the tokens and of those to come, [any number, A]; the sequence ends with the last. Empty:
  /// 1, 2, … (one axis only).
  std::vector<int32_t> positions;
  kernels::SamplingParameters settings;  ///< the engine sets bias_row and bias_period
  /// Added to the logits, V values each; step t uses row t % (number of rows).
  std::vector<std::vector<float>> biases;
};

/// A token chosen for a slot.
struct ChosenToken {
  int64_t slot = 0;
  uint64_t tag = 0;  ///< the sequence's, as passed to Engine::admit
  int32_t token = 0;
  double log_probability = 0;  ///< nats, under the unmodified logits
};

/// Throws `user` for a sequence that cannot be continued: ids outside the vocabulary, positions that are
/// missing or outside their tables, a prompt longer than the context if sequences stop there.
void check_sequence(const PerceiverAR& model, const EngineOptions& options, const Sequence& sequence);

/// Forbids the ids from `token_ids` on, in a sequence for a model of `vocabulary` ids.
void exclude_unused_ids(Sequence& sequence, int64_t token_ids, int64_t vocabulary);

}  // namespace perceiver
