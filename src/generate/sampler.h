// Choosing the next token from logits. Computed in float64 on the host, so that the same logits and seed give
// the same token everywhere.
#pragma once

#include <cstdint>
#include <span>

namespace perceiver {

struct SamplingOptions {
  double temperature = 1;  ///< 0 = greedy
  int64_t top_k = 0;       ///< only the k likeliest; 0 = off
  double top_p = 1;        ///< nucleus: the fewest tokens whose probability reaches p
  double min_p = 0;        ///< only tokens at least this likely beside the likeliest
  uint64_t seed = 0;
};

/// Throws `user` for a temperature that is negative or no number, top_p outside (0, 1], min_p outside [0, 1],
/// top_k < 0.
void check_sampling(const SamplingOptions& options);

struct SampledToken {
  int32_t token = 0;
  double log_probability = 0;  ///< nats, under the model (temperature 1, nothing cut off)
};

/// Draws a token for place `step` of sequence `sequence`: the number drawn depends on (seed, sequence, step)
/// alone. PAD and SOS are never chosen, nor EOS unless `eos_allowed`. Ties go to the smaller id.
SampledToken sample_token(std::span<const double> logits, const SamplingOptions& options, uint64_t sequence,
                          uint64_t step, bool eos_allowed);

}  // namespace perceiver
