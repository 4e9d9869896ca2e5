#include "generate/sampler.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "kernels/sampling.h"

namespace perceiver {

void check_sampling(const SamplingOptions& options) {
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature))
    throw_user("temperature {}: must be a finite number, 0 (greedy) or more", options.temperature);
  if (options.top_k < 0) throw_user("top-k {}: must be 0 (off) or more", options.top_k);
  if (!(options.top_p > 0 && options.top_p <= 1))
    throw_user("top-p {}: must be above 0 and at most 1", options.top_p);
  if (!(options.min_p >= 0 && options.min_p <= 1)) throw_user("min-p {}: must be from 0 to 1", options.min_p);
  if (!(options.repetition_penalty > 0) || !std::isfinite(options.repetition_penalty))
    throw_user("repetition penalty {}: must be a finite number above 0 (1 = off)",
               options.repetition_penalty);
}

kernels::SamplingParameters sampling_parameters(const SamplingOptions& options, uint32_t sequence,
                                                bool allow_eos) {
  kernels::SamplingParameters settings;
  settings.temperature = options.temperature;
  settings.top_p = options.top_p;
  settings.min_p = options.min_p;
  settings.repetition_penalty = options.repetition_penalty;
  settings.seed = options.seed;
  settings.sequence = sequence;
  settings.top_k = static_cast<int32_t>(std::min<int64_t>(options.top_k, INT32_MAX));
  settings.allow_eos = allow_eos ? 1 : 0;
  return settings;
}

}  // namespace perceiver
