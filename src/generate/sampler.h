// How tokens are chosen from logits, as users say it; the choice itself is kernels::Sample.
#pragma once

#include <cstdint>

#include "kernels/sampling.h"

namespace perceiver {

struct SamplingOptions {
  double temperature = 1;  ///< 0 = greedy
  int64_t top_k = 0;       ///< only the k likeliest; 0 = off
  double top_p = 1;        ///< nucleus: the fewest tokens whose probability reaches p
  double min_p = 0;        ///< only tokens at least this likely beside the likeliest
  uint64_t seed = 0;
  double repetition_penalty = 1;  ///< of tokens that occurred before, prompt included (Keskar et al. 2019)
};

/// Throws `user` for a temperature that is negative or no number, top_p outside (0, 1], min_p outside [0, 1],
/// top_k < 0, a penalty that is not above 0.
void check_sampling(const SamplingOptions& options);

/// For sequence `sequence` of those with one seed; EOS can be chosen where `allow_eos`.
kernels::SamplingParameters sampling_parameters(const SamplingOptions& options, uint32_t sequence,
                                                bool allow_eos);

}  // namespace perceiver
