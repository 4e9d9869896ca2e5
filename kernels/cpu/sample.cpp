// Sampling tokens on the CPU: see Sample in kernels/sampling.h.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/sampling.h"
#include "perceiver/experimental/random.h"

namespace perceiver::kernels::cpu {
namespace {

constexpr int32_t kPad = 0, kEos = 1, kSos = 2;
constexpr double kNever = -std::numeric_limits<double>::infinity();

struct AdjustedTag;
struct WeightTag;
struct OrderTag;

/// Logits after penalty and bias; -infinity for tokens that may not be chosen.
template <typename T>
void adjust(const Sample& k, int64_t slot, const T* logits, double* adjusted) {
  const SamplingParameters& parameters = k.parameters[slot];
  const uint8_t* seen = k.seen + slot * k.vocabulary;
  const float* bias =
      parameters.bias_row < 0
          ? nullptr
          : k.bias + (parameters.bias_row + k.step[slot] % parameters.bias_period) * k.vocabulary;
  for (int64_t v = 0; v < k.vocabulary; ++v) {
    double x = static_cast<double>(logits[v]);
    if (seen[v] != 0 && parameters.repetition_penalty != 1)
      x = x > 0 ? x / parameters.repetition_penalty : x * parameters.repetition_penalty;
    adjusted[v] = bias == nullptr ? x : x + static_cast<double>(bias[v]);
  }
  adjusted[kPad] = adjusted[kSos] = kNever;
  if (parameters.allow_eos == 0) adjusted[kEos] = kNever;
}

/// Zeroes the weights of tokens excluded by top_k, min_p or top_p.
void truncate(const SamplingParameters& parameters, int64_t vocabulary, const double* adjusted,
              uint64_t* weights) {
  const bool whole = parameters.top_k == 0 && parameters.top_p >= 1;
  const auto least = static_cast<uint64_t>(std::ldexp(parameters.min_p, 40));
  for (int64_t v = 0; v < vocabulary; ++v)
    if (weights[v] < least) weights[v] = 0;
  if (whole) return;
  int32_t* order = scratch<OrderTag, int32_t>(static_cast<size_t>(vocabulary));
  std::iota(order, order + vocabulary, 0);
  const auto likelier = [&](int32_t a, int32_t b) {
    return adjusted[a] > adjusted[b] || (adjusted[a] == adjusted[b] && a < b);
  };
  int64_t kept = parameters.top_k > 0 ? std::min<int64_t>(parameters.top_k, vocabulary) : vocabulary;
  if (kept < vocabulary) std::nth_element(order, order + kept, order + vocabulary, likelier);
  if (parameters.top_p < 1) {
    std::sort(order, order + kept, likelier);
    uint64_t total = 0, sum = 0;
    for (int64_t i = 0; i < kept; ++i) total += weights[order[i]];
    const auto wanted = static_cast<uint64_t>(std::ceil(parameters.top_p * static_cast<double>(total)));
    int64_t reached = 0;
    while (reached < kept && sum < wanted) sum += weights[order[reached++]];
    kept = reached;
  }
  for (int64_t i = kept; i < vocabulary; ++i) weights[order[i]] = 0;
}

int32_t draw(const Sample& k, int64_t slot, const uint64_t* weights) {
  const SamplingParameters& parameters = k.parameters[slot];
  uint64_t total = 0;
  for (int64_t v = 0; v < k.vocabulary; ++v) total += weights[v];
  RandomStream random(parameters.seed, RandomPurpose::sampling, static_cast<uint64_t>(k.step[slot]),
                      parameters.sequence);
  const auto share = static_cast<uint64_t>((static_cast<unsigned __int128>(random.next64()) * total) >> 64);
  uint64_t sum = 0;
  for (int64_t v = 0; v < k.vocabulary; ++v) {
    sum += weights[v];
    if (sum > share) return static_cast<int32_t>(v);
  }
  return kPad;
}

template <typename T>
void choose(const Sample& k, int64_t slot) {
  const T* logits = static_cast<const T*>(k.logits) + slot * k.vocabulary;
  const auto size = static_cast<size_t>(k.vocabulary);
  double* adjusted = scratch<AdjustedTag, double>(size);
  double top = kNever, sum = 0;
  for (int64_t v = 0; v < k.vocabulary; ++v) top = std::max(top, static_cast<double>(logits[v]));
  for (int64_t v = 0; v < k.vocabulary; ++v) sum += std::exp(static_cast<double>(logits[v]) - top);
  k.token[slot] = kPad;
  k.log_probability[slot] = std::numeric_limits<double>::quiet_NaN();
  adjust(k, slot, logits, adjusted);
  const double largest = *std::max_element(adjusted, adjusted + size);
  if (!std::isfinite(sum) || !std::isfinite(largest)) return;
  int32_t token = static_cast<int32_t>(std::max_element(adjusted, adjusted + size) - adjusted);
  const SamplingParameters& parameters = k.parameters[slot];
  if (parameters.temperature > 0) {
    uint64_t* weights = scratch<WeightTag, uint64_t>(size);
    for (size_t v = 0; v < size; ++v)
      weights[v] =
          static_cast<uint64_t>(std::ldexp(std::exp((adjusted[v] - largest) / parameters.temperature), 40));
    truncate(parameters, k.vocabulary, adjusted, weights);
    token = draw(k, slot, weights);
  }
  if (token == kPad) return;
  k.token[slot] = token;
  k.log_probability[slot] = static_cast<double>(logits[token]) - top - std::log(sum);
  k.seen[slot * k.vocabulary + token] = 1;
}

/// Advances the active slots.
void advance(const AdvanceSlots& k) {
  for (int64_t s = 0; s < k.slots; ++s) {
    if (k.active[s] == 0) continue;
    const auto copies = static_cast<int32_t>(k.copies);
    ++k.step[s];
    ++k.position[s];
    for (int64_t c = 0; c < k.copies; ++c)
      k.query_position[s * k.copies + c] = k.position[s] + k.query_offset;
    k.latent_count[s] = std::min(k.latent_count[s] + copies, static_cast<int32_t>(k.latent_capacity));
    k.latent_row[s] = (k.latent_row[s] + copies) % static_cast<int32_t>(k.latent_capacity);
    if (k.context_capacity == 0) continue;
    k.context_count[s] = std::min(k.context_count[s] + 1, static_cast<int32_t>(k.context_capacity));
    k.context_row[s] = (k.context_row[s] + 1) % static_cast<int32_t>(k.context_capacity);
  }
}

}  // namespace

void sample(const Sample& k) {
  parallel_for(k.slots, std::max<int64_t>(1, 4096 / k.vocabulary), [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot) {
      if (k.active[slot] == 0) continue;
      with_type(k.type, [&]<typename T>() { choose<T>(k, slot); });
      if (k.posted != nullptr) k.posted[slot] = k.token[slot];
    }
  });
  advance(k.next);
}

}  // namespace perceiver::kernels::cpu
