// Every token scored once, with its context: against one pass per token.
#include "eval/evaluator.h"

#include <gtest/gtest.h>

#include <cmath>

#include "distributed/together.h"
#include "eval/policy_evaluator.h"
#include "perceiver/error.h"
#include "perceiver/special_tokens.h"
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

/// The same bits, but for the time.
void expect_same(const EvaluationResult& a, const EvaluationResult& b) {
  EXPECT_EQ(a.documents, b.documents);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.units, b.units);
  EXPECT_EQ(a.nats, b.nats);
  EXPECT_EQ(a.correct, b.correct);
  for (size_t i = 0; i < a.buckets.size(); ++i) {
    EXPECT_EQ(a.buckets[i].nats, b.buckets[i].nats);
    EXPECT_EQ(a.buckets[i].tokens, b.buckets[i].tokens);
  }
}

std::unique_ptr<PerceiverAR> ranks_model() {
  auto model = std::make_unique<PerceiverAR>(tiny_model(), DeviceContext::cpu(1), DType::f64);
  model->parameters().initialize(3);
  return model;
}

/// The adjacent ranks that share a context.
std::shared_ptr<Communicator> context_group(ThreadWorld& world, int ranks) {
  const auto context = DeviceContext::cpu(1);
  return world.communicator(*context, true)->split(world.rank() / ranks);
}

// An odd number of documents, fewer than ranks, fewer windows than ranks.
TEST(Evaluator, AnyNumberOfRanksGetsTheSameResult) {
  for (const std::vector<int64_t>& lengths :
       {std::vector<int64_t>{2, 5, 31, 13, 700}, std::vector<int64_t>{9, 30, 4}, std::vector<int64_t>{3}}) {
    const Documents data(lengths);
    const EvaluationResult alone = evaluate(*ranks_model(), data, Split::test, {3, 0, 4, 0});
    for (const int ranks : {1, 2, 3, 4, 7}) {
      run_ranks(ranks, [&](World& world) {
        const auto model = ranks_model();
        int64_t done = 0, wanted = 0;
        EvaluationOptions options{3, 0, 4, 0};
        options.world = &world;
        const EvaluationResult result =
            evaluate(*model, data, Split::test, options, [&](int64_t scored, int64_t total) {
              done = scored;
              wanted = total;
            });
        expect_same(result, alone);
        EXPECT_EQ(done, wanted);  // its own share, whole
      });
    }
  }
}

TEST(Evaluator, TheRanksOfAContextGroupScoreTheSameWindowsOnce) {
  const Documents data({2, 5, 31, 13, 70});
  const EvaluationResult alone = evaluate(*ranks_model(), data, Split::test, {3, 0, 4, 0});
  for (const int shards : {2, 3, 6}) {
    run_ranks(6, [&](ThreadWorld& world) {
      EvaluationOptions options{3, 0, 4, 0};
      options.world = &world;
      const auto group = context_group(world, shards);
      options.context_group = group.get();
      const EvaluationResult result = evaluate(*ranks_model(), data, Split::test, options);
      EXPECT_EQ(result.tokens, alone.tokens);
      EXPECT_EQ(result.correct, alone.correct);
      EXPECT_NEAR(result.nats, alone.nats, 1e-11 * alone.nats);
    });
  }
}

// Whatever one rank throws, all leave, whether they wait for each other inside (context shards) or not.
TEST(Evaluator, WhatEndsOneRankEndsAll) {
  const Documents data({2, 5, 31, 13, 70, 8, 9});
  for (const int shards : {1, 2}) {
    run_ranks(4, [&](ThreadWorld& world) {
      const auto model = ranks_model();
      EvaluationOptions options{1, 0, 2, 0};
      options.world = &world;
      const auto group = context_group(world, shards);
      if (shards > 1) options.context_group = group.get();
      const auto cancel = [&](int64_t scored, int64_t) {
        if (world.rank() == 1 && scored >= 4) throw Cancelled();
      };
      EXPECT_THROW(evaluate(*model, data, Split::test, options, cancel), Cancelled);
      const auto fail = [&](int64_t, int64_t) {
        if (world.rank() == 3) throw Error(ErrorKind::failure, "out of memory");
      };
      try {
        evaluate(*model, data, Split::test, options, fail);
        ADD_FAILURE() << "no error";
      } catch (const Error& error) {
        EXPECT_STREQ(error.what(), "rank 3: out of memory");
      }
    });
  }
}

TEST(PolicyEvaluator, AnyNumberOfRanksGetsTheSameResult) {
  const Documents data({3, 5, 31, 13, 20});
  for (const int64_t max_tokens : {0, 7}) {
    const auto score = [&](World* world) {
      const auto model = ranks_model();
      EngineOptions engine_options;
      engine_options.slots = 2;
      engine_options.policy = GenerationPolicy::stream;
      Engine engine(*model, engine_options);
      return evaluate_policy(engine, data, Split::test, {0, max_tokens, world});
    };
    const EvaluationResult alone = score(nullptr);
    for (const int ranks : {1, 2, 3, 7})
      run_ranks(ranks, [&](World& world) { expect_same(score(&world), alone); });
  }
}

}  // namespace
}  // namespace perceiver
