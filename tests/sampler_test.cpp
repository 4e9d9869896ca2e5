// Sampling from logits, and generation by recomputation.
#include "generate/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "data/tokenizer.h"
#include "generate/exact_generator.h"
#include "gradient_check.h"
#include "perceiver/error.h"
#include "perceiver/model.h"

namespace perceiver {
namespace {

std::vector<int> histogram(const std::vector<double>& logits, const SamplingOptions& options, int draws) {
  std::vector<int> counts(logits.size(), 0);
  for (int i = 0; i < draws; ++i)
    ++counts[static_cast<size_t>(sample_token(logits, options, 0, static_cast<uint64_t>(i), true).token)];
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
  EXPECT_NEAR(histogram(kLogits, options, 8000)[3], 8000 * 64 / 88, 200);
  options.temperature = 0;
  EXPECT_EQ(histogram(kLogits, options, 50)[3], 50);
}

TEST(Sampler, CutsOff) {
  SamplingOptions options;
  options.top_k = 2;
  std::vector<int> counts = histogram(kLogits, options, 3000);
  EXPECT_EQ(counts[5] + counts[6], 0);
  EXPECT_NEAR(counts[3], 2000, 150);
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

TEST(Sampler, LogProbabilityIsTheModels) {
  const std::vector<double> logits{-50, -50, -50, std::log(8.0), std::log(4.0), std::log(2.0), std::log(2.0)};
  SamplingOptions options;
  options.temperature = 0;
  EXPECT_NEAR(sample_token(logits, options, 0, 0, true).log_probability, std::log(0.5), 1e-12);
}

TEST(Sampler, EndsOnlyWhereAllowed) {
  const std::vector<double> logits{0, 9, 0, 1, 0};
  SamplingOptions options;
  options.temperature = 0;
  EXPECT_EQ(sample_token(logits, options, 0, 0, true).token, eos_token);
  EXPECT_EQ(sample_token(logits, options, 0, 0, false).token, 3);
}

TEST(Sampler, RefusesNonsense) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(check_sampling({nan, 0, 1, 0, 0}), Error);
  EXPECT_THROW(check_sampling({-1, 0, 1, 0, 0}), Error);
  EXPECT_THROW(check_sampling({1, -1, 1, 0, 0}), Error);
  EXPECT_THROW(check_sampling({1, 0, 0, 0, 0}), Error);
  EXPECT_THROW(check_sampling({1, 0, 1.5, 0, 0}), Error);
  EXPECT_THROW(check_sampling({1, 0, 1, nan, 0}), Error);
  EXPECT_NO_THROW(check_sampling({0, 5, 1, 1, 0}));
  EXPECT_THROW(sample_token(std::vector<double>{0, 0, 0, nan}, {}, 0, 0, true), Error);
}

/// A tiny random model, its logits scaled up so that greedy output varies.
std::unique_ptr<PerceiverAR> varied_model() {
  ModelConfig config;
  config.vocabulary = 40;
  config.context_length = 12;
  config.latents = 4;
  config.input_channels = config.latent_channels = 16;
  config.layers = 2;
  config.cross_heads = config.self_heads = 2;
  config.zero_initial_logits = false;
  auto model = std::make_unique<PerceiverAR>(config, DeviceContext::cpu(2), DType::f64);
  model->parameters().initialize(3);
  return model;
}

GenerationRequest request_of(int64_t tokens, int64_t count, uint64_t seed) {
  GenerationRequest request;
  request.prompt = {sos_token, 5, 9};
  request.tokens = tokens;
  request.count = count;
  request.sampling.seed = seed;
  request.ignore_eos = true;
  return request;
}

TEST(ExactGenerator, IsGreedyDecodingByFullPasses) {
  const auto model = varied_model();
  GenerationRequest request = request_of(25, 1, 0);
  request.sampling.temperature = 0;
  const std::vector<int32_t> generated = generate_exactly(*model, request, {})[0];
  std::vector<int32_t> tokens = request.prompt;
  std::set<int32_t> distinct;
  for (const int32_t token : generated) {
    const auto length = std::min<int64_t>(12, static_cast<int64_t>(tokens.size()));
    Batch batch;
    batch.resize(1, 12, 1);  // padded, and with all four latents, valid or not
    batch.lengths[0] = static_cast<int32_t>(length);
    std::copy(tokens.end() - length, tokens.end(), batch.tokens.begin());
    for (int64_t n = 0; n < length; ++n)
      batch.positions[static_cast<size_t>(n)] = static_cast<int32_t>(n + 1);
    const std::vector<double> logits = model->logits(model->prepare(batch, {})).to_host<double>();
    const auto row = logits.end() - 40;
    const auto best = std::max_element(row + special_tokens, logits.end()) - row;
    ASSERT_EQ(token, best);
    tokens.push_back(token);
    distinct.insert(token);
  }
  EXPECT_GT(distinct.size(), 3u);
}

TEST(ExactGenerator, AContinuationDoesNotDependOnTheOthers) {
  const auto model = varied_model();
  const auto three = generate_exactly(*model, request_of(15, 3, 7), {});
  EXPECT_EQ(generate_exactly(*model, request_of(15, 1, 7), {})[0], three[0]);
  EXPECT_NE(three[0], three[1]);
  EXPECT_NE(generate_exactly(*model, request_of(15, 1, 8), {})[0], three[0]);
  // One continuation that is cancelled leaves the others as they were.
  const auto cancelled = generate_exactly(
      *model, request_of(15, 3, 7), [](int64_t sequence, const SampledToken&) { return sequence != 1; });
  EXPECT_EQ(cancelled[1].size(), 1u);
  EXPECT_EQ(cancelled[2], three[2]);
}

TEST(ExactGenerator, ChecksRequestsBeforeAnyWork) {
  const auto model = varied_model();
  int calls = 0;
  const auto refused = [&](const GenerationRequest& request) {
    EXPECT_THROW(generate_exactly(*model, request, [&](int64_t, const SampledToken&) { return ++calls > 0; }),
                 Error);
  };
  refused(request_of(-1, 1, 0));
  refused(request_of(5, 0, 0));
  GenerationRequest request = request_of(5, 1, 0);
  request.prompt.push_back(40);
  refused(request);
  request.prompt = {};
  refused(request);
  EXPECT_EQ(calls, 0);
}

TEST(PublicModel, RefusesWhatIsNoCheckpoint) {
  EXPECT_THROW(Model::load("/no/such/folder"), Error);
}

}  // namespace
}  // namespace perceiver
