// Every token scored once, with its context: against one pass per token.
#include "eval/evaluator.h"

#include <gtest/gtest.h>

#include <cmath>

#include "data/special_tokens.h"
#include "perceiver/error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/thread_world.h"

namespace perceiver {
namespace {

/// Documents of given lengths, of pseudo-random tokens.
class Documents final : public Dataset {
 public:
  explicit Documents(std::vector<int64_t> lengths) : lengths_(std::move(lengths)) {}
  int64_t vocabulary() const override { return 13; }
  std::string tokenizer() const override { return "bytes"; }
  std::string unit() const override { return "byte"; }
  int64_t documents(Split) const override { return static_cast<int64_t>(lengths_.size()); }
  std::string document_name(Split, int64_t document) const override { return std::to_string(document); }
  int64_t document_length(Split, int64_t document) const override {
    return lengths_[static_cast<size_t>(document)];
  }
  int64_t scored_units(Split, int64_t document) const override {
    return lengths_[static_cast<size_t>(document)] - 2;
  }
  void read(Split, int64_t document, int64_t first, int64_t count, int32_t* out) const override {
    for (int64_t i = 0; i < count; ++i) out[i] = token(document, first + i);
  }
  int32_t token(int64_t document, int64_t place) const {
    if (place == 0) return sos_token;
    if (place == lengths_[static_cast<size_t>(document)] - 1) return eos_token;
    return static_cast<int32_t>(3 + (place * place * 7 + document * 5) % 10);
  }

 private:
  std::vector<int64_t> lengths_;
};

ModelConfig tiny_model() {
  ModelConfig config;
  config.vocabulary = 13;
  config.context_length = 12;
  config.latents = 4;
  config.input_channels = config.latent_channels = 8;
  config.layers = 2;
  config.cross_heads = config.self_heads = 2;
  config.zero_initial_logits = false;
  return config;
}

/// Nats of the token at `place` given the tokens before it, of which the row holds at most the context, with
/// `latents` latents.
double nats_of(const PerceiverAR& model, const Documents& data, int64_t document, int64_t place,
               int64_t latents) {
  const int64_t length = std::min(place, model.config().context_length);
  Batch batch;
  batch.resize(1, length, 1);
  batch.lengths[0] = static_cast<int32_t>(length);
  data.read(Split::test, document, place - length, length, batch.tokens.data());
  for (int64_t n = 0; n < length; ++n) batch.positions[static_cast<size_t>(n)] = static_cast<int32_t>(n + 1);
  PassOptions pass;
  pass.latents = latents;
  const std::vector<double> logits = model.logits(model.prepare(batch, pass)).to_host<double>();
  const double* row = logits.data() + logits.size() - 13;
  double sum = 0;
  for (int i = 0; i < 13; ++i) sum += std::exp(row[i]);
  return std::log(sum) - row[data.token(document, place)];
}

TEST(Evaluator, StrideOneIsTheExactSlidingWindow) {
  PerceiverAR model(tiny_model(), DeviceContext::cpu(2), DType::f64);
  model.parameters().initialize(3);
  const Documents data({2, 5, 31, 13});
  for (const int64_t latents : {4, 7}) {
    double expected = 0;
    for (int64_t d = 0; d < 4; ++d)
      for (int64_t place = 1; place < data.document_length(Split::test, d); ++place)
        expected += nats_of(model, data, d, place, latents);
    const EvaluationResult result = evaluate(model, data, Split::test, {1, latents, 3, 0});
    EXPECT_EQ(result.tokens, 1 + 4 + 30 + 12);
    EXPECT_EQ(result.units, 0 + 3 + 29 + 11);
    EXPECT_NEAR(result.nats, expected, 1e-9);
    EXPECT_NEAR(result.bits_per_unit(), expected / std::log(2.0) / 43, 1e-9);
    EXPECT_NEAR(result.perplexity(), std::exp(expected / 47), 1e-9);
    EXPECT_EQ(result.buckets[0].tokens, 47);
  }
}

// A model whose latents do not see each other predicts every token as if alone, so the stride cannot matter
// as long as the whole document fits the context.
TEST(Evaluator, EveryStrideAndBatchScoresEveryTokenOnce) {
  ModelConfig config = tiny_model();
  config.context_length = 40;
  config.layers = 0;
  PerceiverAR model(config, DeviceContext::cpu(2), DType::f64);
  model.parameters().initialize(3);
  const Documents data({2, 5, 31, 13});
  const EvaluationResult reference = evaluate(model, data, Split::test, {1, 0, 1, 0});
  for (const int64_t stride : {2, 3, 4})
    for (const int64_t batch : {1, 5}) {
      const EvaluationResult result = evaluate(model, data, Split::test, {stride, 0, batch, 0});
      EXPECT_EQ(result.tokens, reference.tokens);
      EXPECT_EQ(result.correct, reference.correct);
      EXPECT_NEAR(result.nats, reference.nats, 1e-9);
    }
}

TEST(Evaluator, RanksThatShareTheContextGetTheResultOfOne) {
  const Documents data({2, 5, 31, 13});
  const auto result_on = [&](Communicator* group) {
    PerceiverAR model(tiny_model(), DeviceContext::cpu(1), DType::f64);
    model.parameters().initialize(3);
    return evaluate(model, data, Split::test, {.stride = 2, .batch = 3, .context_group = group});
  };
  const EvaluationResult expected = result_on(nullptr);
  for (const int ranks : {2, 3})
    run_ranks(ranks, [&](ThreadWorld& world) {
      const auto group = world.communicator(testing::cpu(), true);
      const EvaluationResult result = result_on(group.get());
      EXPECT_EQ(result.tokens, expected.tokens);
      EXPECT_EQ(result.correct, expected.correct);
      EXPECT_NEAR(result.nats, expected.nats, 1e-11 * expected.nats);
    });
}

TEST(Evaluator, RefusesImpossibleOptions) {
  PerceiverAR model(tiny_model(), DeviceContext::cpu(2), DType::f64);
  model.parameters().initialize(3);
  const Documents data({9});
  EXPECT_THROW(evaluate(model, data, Split::test, {5, 4, 1, 0}), Error);
  EXPECT_THROW(evaluate(model, data, Split::test, {0, 13, 1, 0}), Error);
}

}  // namespace
}  // namespace perceiver
