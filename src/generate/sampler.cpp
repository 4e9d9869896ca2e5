#include "generate/sampler.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "kernels/sampling.h"

namespace perceiver {

void check_sampling(const SamplingOptions& options) {
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature))
    throw_user("temperature {}: a number from 0 (greedy) on is needed", options.temperature);
  if (options.top_k < 0) throw_user("top-k {}: 0 (off) or a positive number is needed", options.top_k);
  if (!(options.top_p > 0 && options.top_p <= 1))
    throw_user("top-p {}: a number above 0, up to 1, is needed", options.top_p);
  if (!(options.min_p >= 0 && options.min_p <= 1))
    throw_user("min-p {}: a number from 0 to 1 is needed", options.min_p);
  if (!(options.repetition_penalty > 0) || !std::isfinite(options.repetition_penalty))
    throw_user("repetition penalty {}: a number above 0 is needed (1: off)", options.repetition_penalty);
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
