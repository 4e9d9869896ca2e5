// The engine of generation on a GPU: the same as everywhere, and its fused step.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "model/model_file.h"
#include "tests/support/engine_checks.h"
#include "tests/support/gpu.h"
#include "tests/support/small_model.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using namespace testing;

TEST(Engine, PoliciesAreRecomputation) {
  SKIP_WITHOUT_GPU();
  ModelConfig config = generation_config();
  config.input_channels = config.latent_channels = 64;
  config.extra_cross_attention_after = {0};
  for (const DType type : {DType::f32, DType::bf16}) check_policies(config, kAll, type, gpu());
  config.position_encoding = PositionEncoding::absolute;
  config.latents_per_position = 2;
  const auto model = varied_model(config, DType::f32, gpu());
  check_policy(*model, {}, 5, 19, tolerance_of(DType::f32));
}

TEST(Engine, PoliciesAreRecomputationWithKeysOfTheLatents) {
  SKIP_WITHOUT_GPU();
  ModelConfig config = generation_config();
  config.input_channels = config.latent_channels = 64;
  for (ModelConfig each : {with_own_latent_keys(config), with_repeated_reading(config)}) {
    each.position_encoding = PositionEncoding::rotary;
    for (const DType type : {DType::f32, DType::bf16}) check_policies(each, kAll, type, gpu());
    each.position_encoding = PositionEncoding::both;
    const auto model = varied_model(each, DType::f32, gpu());
    check_policy(*model, {}, 5, 19, tolerance_of(DType::f32));
  }
}

TEST(Engine, PoliciesAreRecomputationWithTheContextAsTokens) {
  SKIP_WITHOUT_GPU();
  ModelConfig config = generation_config();
  config.input_channels = config.latent_channels = 64;
  config.extra_cross_attention_after = {0};
  config.cross_heads = 4;
  config.rotary_head_fraction = 0.5;
  for (const DType type : {DType::f32, DType::bf16})
    check_policies(config, kAll, type, gpu(), ContextProjection::table);
}

// A pass attends to keys and values as it computes them, later tokens to those of eight bits.
TEST(Engine, PoliciesAreNearRecomputationWithCachesOfEightBits) {
  SKIP_WITHOUT_GPU();
  ModelConfig config = generation_config();
  config.input_channels = config.latent_channels = 64;
  for (const DType type : {DType::f32, DType::bf16}) {
    PerceiverAR model(config, gpu(), type);
    model.parameters().initialize(3);
    for (const GenerationPolicy policy : kAll)
      for (const ContextProjection context : {ContextProjection::table, ContextProjection::direct})
        check_policy(model, {.policy = policy, .kv_cache = KvCache::fp8, .context = context}, 5, 45, 5e-2);
  }
}

TEST(Engine, CachesOfEightBitsTakeAByteANumberAndAreRounded) {
  SKIP_WITHOUT_GPU();
  PerceiverAR model(generation_config(), gpu(), DType::f32);
  model.parameters().initialize(3);
  EngineOptions options{.policy = GenerationPolicy::stream, .context = ContextProjection::direct};
  Engine whole(model, options);
  options.kv_cache = KvCache::fp8;
  Engine narrow(model, options);
  EXPECT_EQ(narrow.caches().self_kv.dtype(), DType::e4m3);
  EXPECT_EQ(4 * narrow.caches().self_kv.bytes(), whole.caches().self_kv.bytes());
  EXPECT_EQ(4 * narrow.caches().context_kv.bytes(), whole.caches().context_kv.bytes());
  for (Engine* engine : {&whole, &narrow}) {
    engine->admit(0, sequence_of(20, 1));
    engine->compute();
    engine->push(0, 5);
    engine->compute();
  }
  EXPECT_NE(whole.logits(0), narrow.logits(0));
  EXPECT_LE(difference(whole.logits(0), narrow.logits(0)), 5e-2);
  EXPECT_EQ(message_of([&] { Engine(model, {.kv_cache = KvCache::bfloat16}); }),
            "a KV cache in bfloat16 was requested; this model computes in f32 on a GPU, and its cache can be "
            "float32 or fp8");
}

TEST(Engine, AStreamOutgrowsTheRotaryTablesWithCachesOfEightBits) {
  SKIP_WITHOUT_GPU();
  // Turned keys are rounded once more, to numbers 6 to 12% apart: not scaled up, the model makes little of
  // it.
  check_outgrown(ContextProjection::direct, 0.1, DType::f32, gpu(), KvCache::fp8, 1);
}

TEST(Engine, AStreamOutgrowsTheRotaryTables) {
  SKIP_WITHOUT_GPU();
  check_outgrown(ContextProjection::table, 5e-4, DType::f32, gpu());
}

// Copied and saved sequences go on with the same bits.
class Copies : public ::testing::TestWithParam<EngineOptions> {};
INSTANTIATE_TEST_SUITE_P(Contexts, Copies,
                         ::testing::Values(EngineOptions{.context = ContextProjection::table},
                                           EngineOptions{.kv_cache = KvCache::fp8,
                                                         .context = ContextProjection::direct}));

TEST_P(Copies, GoOn) {
  SKIP_WITHOUT_GPU();
  const auto model = varied_model(generation_config(), DType::bf16, gpu());
  EngineOptions options = GetParam();
  options.slots = 3;
  Engine engine(*model, options);
  engine.admit(0, sequence_of(20, 1));
  for (int64_t i = 0; i < 10; ++i) engine.step();
  while (engine.in_flight() > 0) engine.collect();
  engine.copy(engine, 0, 1);
  restore_saved(engine, 0, 2);
  for (int64_t i = 0; i < 20; ++i) engine.step();
  while (engine.in_flight() > 0) engine.collect();
  EXPECT_EQ(engine.tokens(0).size(), 50u);
  EXPECT_EQ(engine.tokens(1), engine.tokens(0));
  EXPECT_EQ(engine.tokens(2), engine.tokens(0));
}

/// Of two engines that are given the same tokens, step by step. Slot s starts with `first` + s * `more`
/// tokens.
void check_alike(Engine& one, Engine& other, int64_t steps, double tolerance, int64_t first = 50,
                 int64_t more = 100) {
  for (Engine* engine : {&one, &other})
    for (int64_t s = 0; s < one.slots(); ++s)
      engine->admit(s, sequence_of(first + more * s, static_cast<uint32_t>(s)));
  for (int64_t step = 0; step < steps; ++step) {
    one.compute();
    other.compute();
    for (int64_t s = 0; s < one.slots(); ++s) {
      ASSERT_LE(difference(one.logits(s), other.logits(s)), tolerance) << "step " << step << ", slot " << s;
      const auto token = static_cast<int32_t>(3 + (step * 37 + s * 11) % 256);
      one.push(s, token);
      other.push(s, token);
    }
  }
}

ModelConfig fused_config() {
  ModelConfig config = generation_config();
  config.vocabulary = 259;
  config.context_length = 400;
  config.latents = 96;
  config.input_channels = config.latent_channels = 256;
  config.layers = 3;
  config.cross_heads = config.self_heads = 4;
  config.extra_cross_attention_after = {1};
  return config;
}

TEST(Engine, TokensAndKeysOfTheContextAreAlike) {
  SKIP_WITHOUT_GPU();
  for (const DType type : {DType::f32, DType::bf16}) {
    PerceiverAR model(fused_config(), gpu(), type);
    model.parameters().initialize(3);
    for (const int64_t slots : {1, 3}) {
      EngineOptions options;
      options.slots = slots;
      options.policy = GenerationPolicy::stream;
      options.context = ContextProjection::table;
      Engine tokens(model, options);
      options.context = ContextProjection::direct;
      Engine keys(model, options);
      EXPECT_TRUE(tokens.caches().by_table());
      EXPECT_FALSE(keys.caches().by_table());
      check_alike(tokens, keys, 450, type == DType::f32 ? 1e-3 : 5e-2);
    }
  }
}

TEST(Engine, ASequenceDoesNotDependOnTheOthers) {
  SKIP_WITHOUT_GPU();
  ModelConfig config = generation_config();
  config.input_channels = config.latent_channels = 64;
  for (const DType type : {DType::f32, DType::bf16}) {
    for (const int64_t channels : {64, 256}) {  // of these the latter has a fused step in bf16
      config.input_channels = config.latent_channels = channels;
      config.cross_heads = config.self_heads = channels / 64 + 1 - channels / 256;
      const auto model = varied_model(config, type, gpu());
      for (const GenerationPolicy policy : kAll)
        for (const ContextProjection kept : {ContextProjection::direct, ContextProjection::table}) {
          EngineOptions options;
          options.context = kept;
          // Tokens have a fused step for one sequence alone, which rounds in places of its own.
          options.fused = kept == ContextProjection::direct;
          check_independence(*model, policy, 5, options);
        }
    }
  }
}

// The fused step and the single operations: the same sequence within bf16's rounding, step by step.
class FusedStep : public ::testing::TestWithParam<Weights> {};
INSTANTIATE_TEST_SUITE_P(Weights, FusedStep,
                         ::testing::Values(Weights::automatic, Weights::fp8, Weights::int8));

TEST_P(FusedStep, IsThePlainOneWithCachesOfEightBits) {
  SKIP_WITHOUT_GPU();
  PerceiverAR model(fused_config(), gpu(), DType::bf16);
  model.parameters().initialize(3);
  model.set_weights(GetParam());
  for (const ContextProjection kept : {ContextProjection::direct, ContextProjection::table})
    for (const int64_t slots : {1, 3}) {
      if (kept == ContextProjection::table && slots > 1) continue;
      EngineOptions options;
      options.slots = slots;
      options.policy = GenerationPolicy::stream;
      options.context = kept;
      options.kv_cache = KvCache::fp8;
      Engine fused(model, options);
      options.fused = false;
      Engine plain(model, options);
      if (!fused.fused()) GTEST_SKIP() << "no fused step on this device";
      check_alike(fused, plain, 450, 5e-2);
    }
}

TEST_P(FusedStep, IsThePlainOne) {
  SKIP_WITHOUT_GPU();
  PerceiverAR model(fused_config(), gpu(), DType::bf16);
  model.parameters().initialize(3);
  model.set_weights(GetParam());
  for (const ContextProjection kept : {ContextProjection::direct, ContextProjection::table}) {
    for (const int64_t slots : {1, 3}) {
      EngineOptions options;
      options.slots = slots;
      options.policy = GenerationPolicy::stream;
      options.context = kept;
      Engine fused(model, options);
      options.fused = false;
      Engine plain(model, options);
      EXPECT_FALSE(plain.fused());
      if (kept == ContextProjection::table && slots > 1) {
        EXPECT_FALSE(fused.fused());
        continue;
      }
      if (!fused.fused()) GTEST_SKIP() << "no fused step on this device";
      check_alike(fused, plain, 450, 5e-2);
    }
  }
}

/// Against full passes of a model in f64 that has the same weights.
TEST(Engine, StepsWithWeightsOfEightBitsAreThoseOfTheDequantizedOnes) {
  SKIP_WITHOUT_GPU();
  const TempFolder folder;
  ModelConfig config = fused_config();
  config.context_length = 60;
  config.latents = 20;
  for (const Weights weights : {Weights::fp8, Weights::int8}) {
    const auto model = std::make_unique<PerceiverAR>(config, gpu(), DType::bf16);
    model->parameters().initialize(3);
    model->set_weights(weights);
    ModelMetadata metadata;
    metadata.model = config;
    save_model(folder.path("file"), *model, metadata);
    const auto exact = load_model(folder.path("file"), DeviceContext::cpu(2), DType::f64).model;
    for (const bool fused : {true, false}) {
      EngineOptions options;
      options.policy = GenerationPolicy::exact;
      options.slots = 2;
      options.fused = fused;
      Engine engine(*model, options);
      std::vector<std::vector<int32_t>> tokens(2);
      for (int64_t s = 0; s < 2; ++s) {
        Sequence sequence = sequence_of(10 + 3 * s, static_cast<uint32_t>(s));
        tokens[static_cast<size_t>(s)] = sequence.tokens;
        engine.admit(s, std::move(sequence));
      }
      for (int64_t step = 0; step < 8; ++step) {
        engine.compute();
        for (int64_t s = 0; s < 2; ++s) {
          auto& own = tokens[static_cast<size_t>(s)];
          const auto latents = std::min<int64_t>(config.latents, static_cast<int64_t>(own.size()));
          EXPECT_LE(difference(engine.logits(s), recomputed_logits(*exact, own, latents)),
                    tolerance_of(DType::bf16))
              << "step " << step << ", slot " << s;
          own.push_back(static_cast<int32_t>(3 + (step * 37 + s * 11) % 256));
          engine.push(s, own.back());
        }
      }
    }
  }
}

TEST(Engine, AShortPromptReadInStepsIsThatOfAPrefill) {
  SKIP_WITHOUT_GPU();
  for (const DType type : {DType::f32, DType::bf16}) {
    PerceiverAR model(fused_config(), gpu(), type);
    model.parameters().initialize(3);
    for (const ContextProjection kept : {ContextProjection::direct, ContextProjection::table})
      for (const int64_t slots : {1, 3}) {
        EngineOptions options;
        options.slots = slots;
        options.context = kept;
        Engine stepwise(model, options);
        EXPECT_EQ(stepwise.options().prompt_steps, 8);
        options.prompt_steps = 0;
        Engine at_once(model, options);
        check_alike(stepwise, at_once, 20, type == DType::f32 ? 1e-3 : 5e-2, 3, 2);
        EXPECT_EQ(stepwise.passes(), 0);
        EXPECT_EQ(at_once.passes(), slots);
      }
  }
}

// All slots hold sequences, of which some grow: the fused step computes the range around those and leaves the
// caches of the others alone.
TEST(Engine, TheFusedStepComputesARangeOfSlots) {
  SKIP_WITHOUT_GPU();
  PerceiverAR model(fused_config(), gpu(), DType::bf16);
  model.parameters().initialize(3);
  EngineOptions options;
  options.slots = 6;
  options.policy = GenerationPolicy::stream;
  options.context = ContextProjection::direct;
  Engine fused(model, options);
  options.fused = false;
  Engine plain(model, options);
  if (!fused.fused()) GTEST_SKIP() << "no fused step on this device";
  const std::vector<int64_t> all{0, 1, 2, 3, 4, 5};
  for (Engine* engine : {&fused, &plain})
    for (const int64_t s : all) engine->admit(s, sequence_of(20 + 30 * s, static_cast<uint32_t>(s)));
  options.fused = true;
  options.slots = 1;
  Engine alone(model, options);  // as slot 3
  alone.admit(0, sequence_of(20 + 30 * 3, 3));
  double apart = 0;
  int32_t number = 0;
  for (const std::vector<int64_t>& busy :
       {all, {3}, {2, 3}, {4}, {5}, {4, 5}, {1, 2}, {0}, {0, 5}, {0, 1, 2, 3}, all})
    for (int step = 0; step < 15; ++step) {
      fused.compute();
      plain.compute();
      alone.compute();
      apart = std::max(apart, difference(fused.logits(3), alone.logits(0)));
      for (const int64_t s : all)
        ASSERT_LE(difference(fused.logits(s), plain.logits(s)), 5e-2) << "slot " << s << ", token " << number;
      for (const int64_t s : busy)
        for (Engine* engine : {&fused, &plain})
          engine->push(s, static_cast<int32_t>(3 + (number * 37 + s * 11) % 256));
      if (std::find(busy.begin(), busy.end(), 3) != busy.end())
        alone.push(0, static_cast<int32_t>(3 + (number * 37 + 3 * 11) % 256));
      ++number;
    }
  // Kernels for one slot and for several add in another order.
  EXPECT_LE(apart, 2e-2);
  RecordProperty("largest_difference_to_alone", std::to_string(apart));
}

// Positions of the kept tokens move down, as the fused step's own.
TEST(Engine, TheFusedStepOutgrowsTheRotaryTables) {
  SKIP_WITHOUT_GPU();
  PerceiverAR model(fused_config(), gpu(), DType::bf16);
  model.parameters().initialize(3);
  EngineOptions options;
  options.policy = GenerationPolicy::stream;
  options.context = ContextProjection::table;
  Engine fused(model, options);
  options.fused = false;
  Engine plain(model, options);
  if (!fused.fused()) GTEST_SKIP() << "no fused step on this device";
  check_alike(fused, plain, 1800, 8e-2);
}

// Tokens where the fused step takes neither them nor keys and values, or takes both and the context is long.
TEST(Engine, AutomaticKeepsTheContextInTheFasterWay) {
  SKIP_WITHOUT_GPU();
  ModelConfig config = fused_config();
  config.context_length = 2 * config.vocabulary;
  const auto kept = [](const PerceiverAR& model, int64_t slots, bool fused) {
    EngineOptions options;
    options.slots = slots;
    options.fused = fused;
    return Engine(model, options).options().context;
  };
  PerceiverAR model(config, gpu(), DType::bf16);
  model.parameters().initialize(3);
  if (!Engine(model, {}).fused()) GTEST_SKIP() << "no fused step on this device";
  EXPECT_EQ(kept(model, 1, true), ContextProjection::direct);
  EXPECT_EQ(kept(model, 3, true), ContextProjection::direct);
  EXPECT_EQ(kept(model, 65, true), ContextProjection::table);
  EXPECT_EQ(kept(model, 3, false), ContextProjection::table);
  for (const bool by_table : {true, false})
    for (const DType caches : {DType::bf16, DType::e4m3})
      EXPECT_TRUE(model.has_fused_step(1, config.latents, config.context_length, by_table, caches));
  EXPECT_FALSE(model.has_fused_step(3, config.latents, config.context_length, true, DType::bf16));
  PerceiverAR wide(config, gpu(), DType::f32);
  EXPECT_EQ(kept(wide, 1, true), ContextProjection::table);
  config.context_length = 2 * config.vocabulary - 1;
  PerceiverAR shorter(config, gpu(), DType::f32);
  EXPECT_EQ(kept(shorter, 1, true), ContextProjection::direct);
  config.context_length = 32 * config.vocabulary;
  PerceiverAR longer(config, gpu(), DType::bf16);
  EXPECT_EQ(kept(longer, 1, true), ContextProjection::table);
  EXPECT_EQ(kept(longer, 3, true), ContextProjection::direct);
}

}  // namespace
}  // namespace perceiver
