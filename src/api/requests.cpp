#include "api/requests.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace perceiver {
namespace {

constexpr int64_t kDefaultTokens = 256;
constexpr size_t kMostMaskRows = 1 << 16;

/// Both masks at once: their rows repeat with the least common multiple of their periods.
std::vector<std::vector<float>> combined(const std::vector<std::vector<float>>& a,
                                         const std::vector<std::vector<float>>& b) {
  if (a.empty()) return b;
  if (b.empty()) return a;
  const size_t rows = std::lcm(a.size(), b.size());
  if (rows > kMostMaskRows)
    throw_user("masks of {} rows do not go with the prompt's {} rows: both repeat only after {}", b.size(),
               a.size(), rows);
  std::vector<std::vector<float>> sums(rows);
  for (size_t r = 0; r < rows; ++r) {
    const std::vector<float>& other = b[r % b.size()];
    sums[r] = a[r % a.size()];
    if (sums[r].size() < other.size()) sums[r].resize(other.size(), 0.0f);
    for (size_t v = 0; v < other.size(); ++v) sums[r][v] += other[v];
  }
  return sums;
}

int64_t tokens_of(const TokenPrompt& prompt, const GenerateOptions& options) {
  if (options.tokens == 0) return prompt.remaining > 0 ? prompt.remaining : kDefaultTokens;
  return prompt.remaining > 0 ? std::min(options.tokens, prompt.remaining) : options.tokens;
}

std::vector<Alternative> likeliest(std::span<const double> logits, int64_t count) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto end = order.begin() + std::min<int64_t>(count, static_cast<int64_t>(order.size()));
  std::partial_sort(order.begin(), end, order.end(), [&](int32_t a, int32_t b) {
    const double x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  });
  const double normalizer = log_normalizer(logits);
  std::vector<Alternative> best;
  for (auto id = order.begin(); id != end; ++id)
    best.push_back({*id, logits[static_cast<size_t>(*id)] - normalizer});
  return best;
}

}  // namespace

double log_normalizer(std::span<const double> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit - top);
  return top + std::log(sum);
}

SamplingOptions sampling_options(const GenerateOptions& options) {
  return {options.temperature, options.top_k, options.top_p,
          options.min_p,       options.seed,  options.repetition_penalty};
}

GenerationRequest request_of(const TokenPrompt& prompt, const GenerateOptions& options) {
  if (options.alternatives < 0)
    throw_user("{} alternatives requested; must be 0 or more", options.alternatives);
  GenerationRequest request;
  request.prompt = prompt.tokens;
  request.positions = prompt.positions;
  request.biases = combined(prompt.masks, options.logit_masks);
  request.token_biases = options.logit_bias;
  request.tokens = options.tokens < 0 ? options.tokens : tokens_of(prompt, options);
  request.stop_tokens = options.stop_tokens;
  request.stop = options.stop;
  request.sampling = sampling_options(options);
  request.ignore_eos = options.ignore_eos || !prompt.may_end;
  return request;
}

LogitsObserver observer_of(const GenerateOptions& options, std::shared_ptr<PendingAlternatives> pending) {
  if (!options.logits && options.alternatives == 0) return {};
  return [callback = options.logits, count = options.alternatives, pending = std::move(pending)](
             std::span<const int32_t> tokens, std::span<double> logits) {
    if (count > 0) pending->push_back(likeliest(logits, count));
    if (callback) callback(tokens, logits);
  };
}

std::vector<Alternative> next_alternatives(PendingAlternatives& pending) {
  if (pending.empty()) return {};
  std::vector<Alternative> oldest = std::move(pending.front());
  pending.pop_front();
  return oldest;
}

EngineOptions engine_options(const BatchOptions& options, const ModelMetadata& metadata) {
  EngineOptions engine;
  engine.slots = options.slots;
  engine.policy = options.policy;
  engine.latents = options.latents;
  engine.refill = options.refill;
  engine.prompt_latents = options.prompt_latents;
  engine.context_end = options.context_end;
  engine.kv_cache = options.kv_cache;
  return suited_options(engine, metadata);
}

BatchOptions batch_options(const GenerateOptions& options) {
  return {.slots = 1,
          .policy = options.policy,
          .latents = options.latents,
          .refill = options.refill,
          .prompt_latents = options.prompt_latents,
          .context_end = options.context_end,
          .kv_cache = options.kv_cache};
}

}  // namespace perceiver
