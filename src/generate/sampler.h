// Sampling parameters as users give them; kernels::Sample makes the choice.
#pragma once

#include <cstdint>

#include "kernels/sampling.h"

namespace perceiver {

struct SamplingOptions {
  double temperature = 1;  ///< 0 = greedy
  int64_t top_k = 0;       ///< the k likeliest only; 0 = off
  double top_p = 1;        ///< nucleus: the fewest tokens whose probability reaches p
  double min_p = 0;        ///< minimum probability, relative to the likeliest token's
  uint64_t seed = 0;
  double repetition_penalty =
      1;  ///< for tokens that occurred, in the prompt too (Keskar et al. 2019); 1 = off
};

/// Throws `user` for a negative or non-finite temperature, top_p outside (0, 1], min_p outside [0, 1], top_k
/// < 0, or a penalty that is not positive.
void check_sampling(const SamplingOptions& options);

/// For sequence number `sequence` of a seed; EOS can be chosen if `allow_eos`.
kernels::SamplingParameters sampling_parameters(const SamplingOptions& options, uint32_t sequence,
                                                bool allow_eos);

}  // namespace perceiver
