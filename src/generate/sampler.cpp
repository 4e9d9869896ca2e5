#include "generate/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/check.h"
#include "core/random.h"
#include "data/tokenizer.h"

namespace perceiver {
namespace {

/// Ids that may be chosen, likeliest first.
std::vector<int32_t> candidates(std::span<const double> logits, bool eos_allowed) {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < static_cast<int32_t>(logits.size()); ++id) {
    const bool forbidden = id == pad_token || id == sos_token || (id == eos_token && !eos_allowed);
    if (!forbidden && logits[id] > -INFINITY) ids.push_back(id);
  }
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  return ids;
}

/// How many of the sorted weights remain after top-k, min-p and top-p, at least one.
size_t cut(const std::vector<double>& weights, const SamplingOptions& options) {
  size_t kept = weights.size();
  if (options.top_k > 0) kept = std::min(kept, static_cast<size_t>(options.top_k));
  while (kept > 1 && weights[kept - 1] < options.min_p * weights[0]) --kept;
  if (options.top_p >= 1) return kept;
  const double total = std::accumulate(weights.begin(), weights.begin() + static_cast<int64_t>(kept), 0.0);
  double sum = 0;
  for (size_t i = 0; i < kept; ++i) {
    sum += weights[i];
    if (sum >= options.top_p * total) return i + 1;
  }
  return kept;
}

}  // namespace

void check_sampling(const SamplingOptions& options) {
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature))
    throw_user("temperature {}: a number from 0 (greedy) on is needed", options.temperature);
  if (options.top_k < 0) throw_user("top-k {}: 0 (off) or a positive number is needed", options.top_k);
  if (!(options.top_p > 0 && options.top_p <= 1))
    throw_user("top-p {}: a number above 0, up to 1, is needed", options.top_p);
  if (!(options.min_p >= 0 && options.min_p <= 1))
    throw_user("min-p {}: a number from 0 to 1 is needed", options.min_p);
}

SampledToken sample_token(std::span<const double> logits, const SamplingOptions& options, uint64_t sequence,
                          uint64_t step, bool eos_allowed) {
  const std::vector<int32_t> ids = candidates(logits, eos_allowed);
  PERCEIVER_ASSERT(!ids.empty());
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit - largest);
  if (!std::isfinite(sum)) throw_failure("the model's logits are not finite; its weights are damaged");
  const auto chosen = [&](int32_t id) { return SampledToken{id, logits[id] - largest - std::log(sum)}; };
  if (options.temperature == 0) return chosen(ids[0]);

  std::vector<double> weights;
  weights.reserve(ids.size());
  for (const int32_t id : ids)
    weights.push_back(std::exp((logits[id] - logits[ids[0]]) / options.temperature));
  weights.resize(cut(weights, options));
  RandomStream random(options.seed, RandomPurpose::sampling, step, static_cast<uint32_t>(sequence));
  double rest = random.uniform() * std::accumulate(weights.begin(), weights.end(), 0.0);
  for (size_t i = 0; i < weights.size(); ++i) {
    rest -= weights[i];
    if (rest < 0) return chosen(ids[i]);
  }
  return chosen(ids[weights.size() - 1]);
}

}  // namespace perceiver
