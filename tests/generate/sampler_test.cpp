// Choosing tokens: the CPU's kernel against the definition; options that make no sense.
#include "generate/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "kernels/sampling.h"
#include "perceiver/error.h"
#include "perceiver/experimental/random.h"
#include "perceiver/special_tokens.h"

namespace perceiver {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Choice {
  int32_t token;
  double log_probability;
};

Choice choose(const std::vector<double>& logits, const kernels::SamplingParameters& settings,
              int32_t step = 0, const std::vector<float>& bias = {}, std::vector<uint8_t> seen = {}) {
  seen.resize(logits.size(), 0);
  const int32_t active = 1;
  Choice choice{};
  kernels::cpu::sample({.type = DType::f64,
                        .slots = 1,
                        .vocabulary = static_cast<int64_t>(logits.size()),
                        .logits = logits.data(),
                        .parameters = &settings,
                        .bias = bias.empty() ? nullptr : bias.data(),
                        .seen = seen.data(),
                        .step = &step,
                        .active = &active,
                        .token = &choice.token,
                        .log_probability = &choice.log_probability});
  if (choice.token != pad_token) {
    EXPECT_EQ(seen[static_cast<size_t>(choice.token)], 1);
  }
  return choice;
}

std::vector<int> histogram(const std::vector<double>& logits, const SamplingOptions& options, int draws) {
  std::vector<int> counts(logits.size(), 0);
  const kernels::SamplingParameters settings = sampling_parameters(options, 0, true);
  for (int i = 0; i < draws; ++i) ++counts[static_cast<size_t>(choose(logits, settings, i).token)];
  return counts;
}

// Ids 0 to 2 are PAD, EOS, SOS; probabilities 1/2, 1/4, 1/8, 1/8 of ids 3 to 6.
const std::vector<double> kLogits{50, -40, 50, std::log(8.0), std::log(4.0), std::log(2.0), std::log(2.0)};

TEST(Sampler, FollowsTheProbabilities) {
  const std::vector<int> counts = histogram(kLogits, {}, 8000);
  EXPECT_EQ(counts[0] + counts[2], 0);
  EXPECT_NEAR(counts[3], 4000, 200);
  EXPECT_NEAR(counts[4], 2000, 160);
  EXPECT_NEAR(counts[6], 1000, 120);
}

TEST(Sampler, TemperatureSharpens) {
  SamplingOptions options;
  options.temperature = 0.5;  // weights 64, 16, 4, 4
  EXPECT_NEAR(histogram(kLogits, options, 8000)[3], 8000 * 64 / 88.0, 200);
  options.temperature = 0;
  EXPECT_EQ(histogram(kLogits, options, 50)[3], 50);
}

TEST(Sampler, CutsOff) {
  SamplingOptions options;
  options.top_k = 2;
  std::vector<int> counts = histogram(kLogits, options, 3000);
  EXPECT_EQ(counts[5] + counts[6], 0);
  EXPECT_NEAR(counts[3], 2000, 150);
  options.top_k = 3;  // of the two equal ones the first
  counts = histogram(kLogits, options, 3000);
  EXPECT_EQ(counts[6], 0);
  EXPECT_GT(counts[5], 0);
  options = {};
  options.top_p = 0.75;
  counts = histogram(kLogits, options, 3000);
  EXPECT_EQ(counts[5] + counts[6], 0);
  EXPECT_GT(counts[4], 0);
  options.top_p = 0.1;
  EXPECT_EQ(histogram(kLogits, options, 100)[3], 100);
  options = {};
  options.min_p = 0.3;
  counts = histogram(kLogits, options, 3000);
  EXPECT_EQ(counts[5] + counts[6], 0);
  EXPECT_GT(counts[4], 0);
}

/// The definition, in the plainest way: the kept tokens of a whole sort.
int32_t defined_choice(const std::vector<double>& logits, const kernels::SamplingParameters& settings,
                       int32_t step) {
  std::vector<int32_t> ids(logits.size() - 3);
  std::iota(ids.begin(), ids.end(), 3);
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  const double largest = logits[ids[0]];
  const auto weight = [&](int32_t id) {
    const auto w =
        static_cast<uint64_t>(std::ldexp(std::exp((logits[id] - largest) / settings.temperature), 40));
    return w < static_cast<uint64_t>(std::ldexp(settings.min_p, 40)) ? uint64_t{0} : w;
  };
  if (settings.top_k > 0) ids.resize(std::min<size_t>(ids.size(), static_cast<size_t>(settings.top_k)));
  uint64_t total = 0, sum = 0;
  for (const int32_t id : ids) total += weight(id);
  const auto wanted = static_cast<uint64_t>(std::ceil(settings.top_p * static_cast<double>(total)));
  size_t kept = 0;
  while (kept < ids.size() && sum < wanted) sum += weight(ids[kept++]);
  ids.resize(kept);
  std::sort(ids.begin(), ids.end());
  RandomStream random(settings.seed, RandomPurpose::sampling, static_cast<uint64_t>(step), settings.sequence);
  const auto share = static_cast<uint64_t>((static_cast<unsigned __int128>(random.next64()) * sum) >> 64);
  uint64_t running = 0;
  for (const int32_t id : ids)
    if ((running += weight(id)) > share) return id;
  return -1;
}

TEST(Sampler, IsItsDefinitionForSmallAndLargeVocabularies) {
  std::mt19937 generator(1);
  for (const size_t vocabulary : {size_t{259}, size_t{768}, size_t{32000}, size_t{131072}}) {
    std::vector<double> logits(vocabulary);
    for (double& x : logits)
      x = std::round(std::normal_distribution<double>(0, 3)(generator) * 4) / 4;  // with ties
    logits[0] = logits[1] = logits[2] = -100;
    for (const int32_t top_k : {0, 1, 50})
      for (const double top_p : {1.0, 0.9, 0.3})
        for (const double min_p : {0.0, 0.2}) {
          const kernels::SamplingParameters settings =
              sampling_parameters({0.8, top_k, top_p, min_p, 9, 1}, 4, false);
          for (int32_t step = 0; step < 4; ++step)
            ASSERT_EQ(choose(logits, settings, step).token, defined_choice(logits, settings, step))
                << vocabulary << ' ' << top_k << ' ' << top_p << ' ' << min_p << ' ' << step;
        }
  }
}

TEST(Sampler, LogProbabilityIsTheModels) {
  const std::vector<double> logits{-50, -50, -50, std::log(8.0), std::log(4.0), std::log(2.0), std::log(2.0)};
  SamplingOptions options;
  options.temperature = 0;
  EXPECT_NEAR(choose(logits, sampling_parameters(options, 0, true)).log_probability, std::log(0.5), 1e-12);
}

TEST(Sampler, EndsOnlyWhereAllowed) {
  const std::vector<double> logits{0, 9, 0, 1, 0};
  SamplingOptions options;
  options.temperature = 0;
  EXPECT_EQ(choose(logits, sampling_parameters(options, 0, true)).token, eos_token);
  EXPECT_EQ(choose(logits, sampling_parameters(options, 0, false)).token, 3);
}

TEST(Sampler, BiasesMasksAndPenaltiesComeFirst) {
  SamplingOptions options;
  options.temperature = 0;
  kernels::SamplingParameters settings = sampling_parameters(options, 0, true);
  settings.bias_row = 0;
  settings.bias_period = 2;
  const auto never = static_cast<float>(-kInfinity);
  const std::vector<float> bias{0, 0, 0, never, 0, 0, 0, /* odd steps: */ 0, 0, 0, 0, 0, 0, 9};
  EXPECT_EQ(choose(kLogits, settings, 0, bias).token, 4);
  EXPECT_EQ(choose(kLogits, settings, 1, bias).token, 6);
  EXPECT_EQ(choose(kLogits, settings, 2, bias).token, 4);
  options.repetition_penalty = 1.6;  // log 8 / 1.6 = 1.30 < log 4
  EXPECT_EQ(choose(kLogits, sampling_parameters(options, 0, true), 0, {}, {0, 0, 0, 1}).token, 4);
  EXPECT_EQ(choose({0, -9, 0, -1, -1.2}, sampling_parameters(options, 0, true), 0, {}, {0, 0, 0, 1, 0}).token,
            4);
}

TEST(Sampler, TellsWhereNothingCanBeChosen) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const kernels::SamplingParameters settings = sampling_parameters({}, 0, true);
  for (const std::vector<double>& logits :
       {std::vector<double>{0, 0, 0, nan}, {0, 0, 0, kInfinity}, {nan, nan, nan, nan}}) {
    const Choice choice = choose(logits, settings);
    EXPECT_EQ(choice.token, pad_token);
    EXPECT_TRUE(std::isnan(choice.log_probability));
  }
  kernels::SamplingParameters masked = settings;
  masked.bias_row = 0;
  EXPECT_TRUE(std::isnan(
      choose(kLogits, masked, 0, std::vector<float>(7, static_cast<float>(-kInfinity))).log_probability));
}

TEST(Sampler, RefusesNonsense) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(check_sampling({nan, 0, 1, 0, 0}), Error);
  EXPECT_THROW(check_sampling({-1, 0, 1, 0, 0}), Error);
  EXPECT_THROW(check_sampling({1, -1, 1, 0, 0}), Error);
  EXPECT_THROW(check_sampling({1, 0, 0, 0, 0}), Error);
  EXPECT_THROW(check_sampling({1, 0, 1.5, 0, 0}), Error);
  EXPECT_THROW(check_sampling({1, 0, 1, nan, 0}), Error);
  EXPECT_THROW(check_sampling({1, 0, 1, 0, 0, 0}), Error);
  EXPECT_THROW(check_sampling({1, 0, 1, 0, 0, nan}), Error);
  EXPECT_NO_THROW(check_sampling({0, 5, 1, 1, 0}));
}

}  // namespace
}  // namespace perceiver
