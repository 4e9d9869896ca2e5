// Generation with a context that ranks share: every rank chooses the tokens that one rank alone would.
#include <gtest/gtest.h>

#include "tests/support/generation_model.h"
#include "tests/support/gradient_check.h"
#include "tests/support/thread_world.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using namespace testing;

struct Generated {
  std::vector<std::vector<int32_t>> tokens;
  std::vector<double> logits;  ///< of the last step
  int64_t prefills = 0;
};

/// Two sequences, one of which leaves the context behind, and a third in the second one's slot.
Generated generated(const ModelConfig& config, const EngineOptions& options) {
  const auto model = varied_model(config, DType::f64, DeviceContext::cpu(1));
  Engine engine(*model, options);
  Generated result;
  const auto admit = [&](int64_t slot, int64_t length) {
    Sequence sequence;
    sequence.tokens = prompt_of(length, static_cast<uint32_t>(slot + length));
    sequence.settings.seed = 5;
    sequence.settings.sequence = static_cast<uint32_t>(length);
    engine.admit(slot, std::move(sequence));
  };
  const auto steps = [&](int count) {
    for (int step = 0; step < count; ++step) {
      engine.step();
      engine.collect();
    }
  };
  admit(0, 17);
  admit(1, 2);
  steps(5);
  result.tokens.push_back(engine.tokens(1));
  engine.release(1);
  admit(1, 6);
  steps(9);
  engine.compute();
  result.logits = engine.logits(0);
  result.prefills = engine.passes();
  for (const int64_t slot : {0, 1}) result.tokens.push_back(engine.tokens(slot));
  return result;
}

void expect_same_on_ranks(const ModelConfig& config, EngineOptions options) {
  options.slots = 2;
  const Generated expected = generated(config, options);
  for (const int ranks : {1, 2, 3, 5})
    run_ranks(ranks, [&](ThreadWorld& world) {
      const auto group = world.communicator(cpu(), true);
      EngineOptions shared = options;
      shared.context_group = group.get();
      const Generated actual = generated(config, shared);
      EXPECT_EQ(actual.tokens, expected.tokens);
      EXPECT_EQ(actual.prefills, expected.prefills);
      EXPECT_LE(difference(actual.logits, expected.logits), 1e-11);
    });
}

TEST(SharedContextGeneration, EveryRankChoosesWhatOneRankWould) {
  for (const GenerationPolicy policy :
       {GenerationPolicy::refill, GenerationPolicy::stream, GenerationPolicy::exact})
    for (const ContextProjection context : {ContextProjection::direct, ContextProjection::table}) {
      EngineOptions options;
      options.policy = policy;
      options.context = context;
      options.prompt_latents = 2;
      ModelConfig config = generation_config();
      config.extra_cross_attention_after = {0};
      expect_same_on_ranks(config, options);
    }
}

TEST(SharedContextGeneration, AbsolutePositionsAndSeveralLatentsAPosition) {
  ModelConfig config = generation_config();
  config.position_encoding = PositionEncoding::absolute;
  config.latents_per_position = 2;
  expect_same_on_ranks(config, {});
}

TEST(SharedContextGeneration, ModelsWithoutCaches) {
  ModelConfig config = generation_config();
  config.position_source = PositionSource::terminal_relative;
  expect_same_on_ranks(config, {});
}

/// Positions outgrow the rotary tables: the cached keys are rotated back on every rank.
TEST(SharedContextGeneration, PositionsAreRebased) {
  for (const ContextProjection context : {ContextProjection::direct, ContextProjection::table}) {
    const auto last = [&](Communicator* group) {
      const auto model = varied_model(generation_config(), DType::f64, DeviceContext::cpu(1));
      EngineOptions options;
      options.policy = GenerationPolicy::stream;
      options.context = context;
      options.context_group = group;
      Engine engine(*model, options);
      Sequence sequence;
      sequence.tokens = prompt_of(20);
      engine.admit(0, std::move(sequence));
      for (int step = 0; step < 1200; ++step) {
        engine.step();
        engine.collect();
      }
      return engine.tokens(0);
    };
    const std::vector<int32_t> expected = last(nullptr);
    run_ranks(2, [&](ThreadWorld& world) {
      const auto group = world.communicator(cpu(), true);
      EXPECT_EQ(last(group.get()), expected);
    });
  }
}

TEST(SharedContextGeneration, CachesHoldOnlyARanksPart) {
  const auto model = varied_model(generation_config(), DType::f64, DeviceContext::cpu(1));
  const int64_t alone = model->make_caches(3, 8, 24, false).context_kv.elements();
  run_ranks(5, [&](ThreadWorld& world) {
    const auto group = world.communicator(cpu(), true);
    EXPECT_EQ(model->make_caches(3, 8, 24, false, group.get()).context_kv.elements(), alone / 24 * 5);
  });
}

TEST(SharedContextGeneration, CopiesOfASequenceGoOnAsItDoes) {
  run_ranks(3, [&](ThreadWorld& world) {
    const auto group = world.communicator(cpu(), true);
    const auto model = varied_model(generation_config(), DType::f64, DeviceContext::cpu(1));
    EngineOptions options;
    options.slots = 2;
    options.context_group = group.get();
    Engine engine(*model, options);
    Sequence sequence;
    sequence.tokens = prompt_of(17);
    engine.admit(0, std::move(sequence));
    for (int step = 0; step < 3; ++step) engine.step(), engine.collect();
    engine.copy(engine, 0, 1);
    for (int step = 0; step < 9; ++step) engine.step(), engine.collect();
    EXPECT_EQ(engine.tokens(0), engine.tokens(1));
  });
}

TEST(SharedContextGeneration, WhatCannotBeSharedIsRefused) {
  run_ranks(2, [&](ThreadWorld& world) {
    const auto group = world.communicator(cpu(), true);
    EngineOptions options;
    options.context_group = group.get();
    ModelConfig transformer = generation_config();
    transformer.type = ModelType::transformer;
    const auto other = varied_model(transformer, DType::f64, DeviceContext::cpu(1));
    EXPECT_EQ(message_of([&] { Engine(*other, options); }),
              "ranks cannot share a context: model.type transformer has none");
    const auto model = varied_model(generation_config(), DType::f64, DeviceContext::cpu(1));
    Engine engine(*model, options);
    Sequence sequence;
    sequence.tokens = prompt_of(3);
    engine.admit(0, std::move(sequence));
    SafetensorsWriter writer;
    Engine::Storage storage;
    EXPECT_EQ(message_of([&] { engine.save(0, writer, storage); }),
              "a sequence whose context 2 ranks share cannot be saved or restored");
  });
}

}  // namespace
}  // namespace perceiver
