// The generation engine: its policies against passes over the whole sequence, for every option of the model.
#include "generate/engine.h"

#include <gtest/gtest.h>

#include <map>

#include "perceiver/error.h"
#include "tests/support/engine_checks.h"
#include "tests/support/small_model.h"

namespace perceiver {
namespace {

using namespace testing;

TEST(Engine, PoliciesAreRecomputationWhileTheLatentsHaveRoom) {
  check_policies(generation_config(), kAll);
}

TEST(Engine, PoliciesAreRecomputationInFloat32) {
  check_policies(generation_config(), kAll, DType::f32);
}

// Prompts read the rounded weights in float32, tokens in bfloat16: the same numbers.
TEST(Engine, PoliciesAreRecomputationWithBf16Weights) {
  const auto model = varied_model(generation_config(), DType::f32);
  const std::vector<double> before = recomputed_logits(*model, prompt_of(9), 8);
  model->round_weights_to_bf16();
  EXPECT_GT(difference(recomputed_logits(*model, prompt_of(9), 8), before), 1e-4);
  for (const GenerationPolicy policy : kAll) {
    EngineOptions options;
    options.policy = policy;
    check_policy(*model, options, 5, 45, tolerance_of(DType::f32));
  }
  const auto wide = varied_model(generation_config(), DType::f64);
  EXPECT_THROW(wide->round_weights_to_bf16(), Error);
}

// Prompts read products of integers and scales, tokens the integers: the same numbers. For tokens the
// activations are rounded to 16 bits, more coarsely than in float32.
TEST(Engine, PoliciesAreRecomputationWithInt8Weights) {
  for (const bool tied : {false, true}) {
    ModelConfig config = generation_config();
    config.tied_output = tied;
    if (tied) config.latent_channels = config.input_channels;
    const auto model = varied_model(config, DType::f32);
    const std::vector<double> before = recomputed_logits(*model, prompt_of(9), 8);
    model->quantize_weights(DType::i8);
    EXPECT_GT(difference(recomputed_logits(*model, prompt_of(9), 8), before), 3e-3);
    for (const GenerationPolicy policy : kAll) {
      EngineOptions options;
      options.policy = policy;
      check_policy(*model, options, 5, 45, 1.5e-3);
    }
  }
}

// On the CPU everything reads the rounded weights in float32.
TEST(Engine, PoliciesAreRecomputationWithFp8Weights) {
  const auto model = varied_model(generation_config(), DType::f32);
  const std::vector<double> before = recomputed_logits(*model, prompt_of(9), 8);
  model->quantize_weights(DType::e4m3);
  EXPECT_GT(difference(recomputed_logits(*model, prompt_of(9), 8), before), 1e-2);
  for (const GenerationPolicy policy : kAll) {
    EngineOptions options;
    options.policy = policy;
    check_policy(*model, options, 5, 45, tolerance_of(DType::f32));
  }
}

// A token reads keys and values of bf16, a pass over the sequence those of its own: near, not the same. With
// its weights scaled up, as in the other tests, the model would make much of the difference.
TEST(Engine, PoliciesAreNearRecomputationWithABf16Cache) {
  ModelConfig absolute = generation_config();
  absolute.position_encoding = PositionEncoding::absolute;
  for (const ModelConfig& config : {generation_config(), absolute}) {
    PerceiverAR model(config, DeviceContext::cpu(2), DType::f32);
    model.parameters().initialize(3);
    const int64_t tokens =
        config.position_encoding == PositionEncoding::rotary ? 45 : 19;  // tables: until the context slides
    for (const GenerationPolicy policy : kAll)
      for (const ContextProjection context : {ContextProjection::automatic, ContextProjection::direct})
        check_policy(model, {.policy = policy, .kv_cache = KvCache::bfloat16, .context = context}, 5, tokens,
                     1e-2);
  }
}

TEST(Engine, ABf16CacheTakesHalfOfTheMemoryAndIsRounded) {
  const auto model = varied_model(generation_config(), DType::f32);
  Engine whole(*model, {.context = ContextProjection::direct}),
      half(*model, {.kv_cache = KvCache::bfloat16, .context = ContextProjection::direct});
  EXPECT_EQ(2 * half.caches().bytes(),
            whole.caches().bytes() +
                static_cast<int64_t>(half.caches().context_table ? half.caches().context_table.bytes() : 0));
  const auto logits = [](Engine& engine) {
    engine.admit(0, sequence_of(6, 0));
    engine.compute();
    engine.push(0, 5);
    engine.compute();
    return engine.logits(0);
  };
  const auto wide = logits(whole), narrow = logits(half);
  EXPECT_NE(wide, narrow);
  EXPECT_LE(difference(wide, narrow), 3e-2);
}

TEST(Engine, PoliciesAreRecomputationWithTheContextAsTokensOrAsKeys) {
  ModelConfig config = generation_config();
  config.rotary_head_fraction = 0.5;
  config.cross_heads = 4;
  const auto model = varied_model(config);
  for (const ContextProjection context : {ContextProjection::table, ContextProjection::direct}) {
    EngineOptions options;
    options.context = context;
    EXPECT_EQ(Engine(*model, options).caches().by_table(), context == ContextProjection::table);
    check_policy(*model, options, 5, 60, 1e-10);
  }
}

TEST(Engine, PoliciesAreRecomputationForEveryRefillAndNumberOfLatents) {
  const auto model = varied_model(generation_config());
  for (const int64_t latents : {1, 3, 8, 13, 24})
    for (const int64_t refill : {int64_t{1}, (latents + 1) / 2, latents})
      for (const int64_t first : {int64_t{1}, latents}) {
        EngineOptions options;
        options.policy = GenerationPolicy::refill;
        options.latents = latents;
        options.refill = refill;
        options.prompt_latents = first;
        check_policy(*model, options, 6, 40, 1e-10);
      }
}

TEST(Engine, PoliciesAreRecomputationWithOtherHeadsAndOffsets) {
  ModelConfig config = generation_config();
  config.query_offset = true;
  config.rotary_fraction = 1;
  config.latent_channels = 24;
  config.extra_cross_attention_after = {0, 1};
  for (const AttentionWidth width : {AttentionWidth::kv, AttentionWidth::q}) {
    config.attention_width = width;
    check_policies(config, kAll);
  }
}

TEST(Engine, PoliciesAreRecomputationWithQueriesOfTheirOwn) {
  ModelConfig config = generation_config();
  config.query_style = QueryStyle::mlp;
  config.query_residual = false;
  check_policies(config, kAll);
  config.query_style = QueryStyle::learned;
  config.shared_learned_query = true;
  check_policies(config, kAll);
}

TEST(Engine, PoliciesAreRecomputationWithKeysOfTheLatents) {
  for (ModelConfig config : {testing::with_own_latent_keys(generation_config()),
                             testing::with_repeated_reading(generation_config())}) {
    config.position_encoding = PositionEncoding::rotary;
    check_policies(config, kAll);
    config.position_encoding = PositionEncoding::both;
    const auto model = varied_model(config);
    for (const GenerationPolicy policy : kAll) {
      EngineOptions options;
      options.policy = policy;
      options.slots = 2;
      check_policy(*model, options, 5, 19, 1e-10);  // until the context is full
    }
    EngineOptions options;
    options.policy = GenerationPolicy::exact;
    check_policy(*model, options, 22, 30, 1e-10);
  }
}

TEST(Engine, KeepsNoContextAsTokensWhereLatentsHaveKeysOfTheirOwn) {
  ModelConfig config = testing::with_own_latent_keys(generation_config());
  config.position_encoding = PositionEncoding::rotary;
  const auto model = varied_model(config);
  EXPECT_EQ(Engine(*model, {}).options().context, ContextProjection::direct);
  EngineOptions options;
  options.context = ContextProjection::table;
  EXPECT_THROW(Engine(*model, options), Error);
}

TEST(Engine, PoliciesAreRecomputationWithPositionTables) {
  ModelConfig config = generation_config();
  config.position_encoding = PositionEncoding::absolute;
  for (const PositionTable table :
       {PositionTable::sinusoidal, PositionTable::fourier, PositionTable::learned}) {
    config.position_table = table;
    const auto model = varied_model(config);
    for (const GenerationPolicy policy : kAll) {
      EngineOptions options;
      options.policy = policy;
      check_policy(*model, options, 5, 19, 1e-10);  // until the context is full
    }
  }
}

TEST(Engine, PositionTablesMakeEveryStepExactOnceTheContextSlides) {
  ModelConfig config = generation_config();
  config.position_encoding = PositionEncoding::absolute;
  const auto model = varied_model(config);
  EngineOptions options;
  options.policy = GenerationPolicy::refill;
  Engine engine(*model, options);
  Sequence sequence;
  sequence.tokens = prompt_of(22);
  engine.admit(0, sequence);
  for (int64_t length = 22; length < 40; ++length) {
    engine.compute();
    if (length > 24) {
      EXPECT_LE(difference(engine.logits(0), recomputed_logits(*model, engine.tokens(0), 8)), 1e-10);
    }
    engine.push(0, greedy(engine.logits(0)));
  }
}

TEST(Engine, PoliciesAreRecomputationWithSeveralLatentsOfAPosition) {
  ModelConfig config = generation_config();
  config.position_encoding = PositionEncoding::absolute;
  config.latents_per_position = 2;
  const auto model = varied_model(config);
  for (const GenerationPolicy policy : kAll) {
    EngineOptions options;
    options.policy = policy;
    options.slots = 3;
    check_policy(*model, options, 3, 21, 1e-10);
  }
}

TEST(Engine, PoliciesAreRecomputationForTheTransformer) {
  ModelConfig config = generation_config();
  config.type = ModelType::transformer;
  config.latents = config.context_length;
  check_policies(config, kAll);
}

TEST(Engine, ExactIsAllThatModelsWithoutACacheAllow) {
  ModelConfig relative = generation_config();
  relative.position_source = PositionSource::terminal_relative;
  ModelConfig rows = generation_config();
  rows.query_style = QueryStyle::learned;
  for (const ModelConfig& config : {relative, rows}) {
    const auto model = varied_model(config);
    EngineOptions options;
    options.policy = GenerationPolicy::refill;
    EXPECT_THROW(Engine(*model, options), Error);
    options.policy = GenerationPolicy::automatic;
    Engine engine(*model, options);
    EXPECT_EQ(engine.options().policy, GenerationPolicy::exact);
    Sequence sequence;
    sequence.tokens = prompt_of(4);
    engine.admit(0, sequence);
    for (int64_t length = 4; length < 35; ++length) {
      engine.compute();
      const auto latents = config.query_style == QueryStyle::learned ? 8 : std::min<int64_t>(8, length);
      EXPECT_LE(difference(engine.logits(0), recomputed_logits(*model, engine.tokens(0), latents)), 1e-12);
      engine.push(0, greedy(engine.logits(0)));
    }
  }
}

TEST(Engine, AStreamOutgrowsTheRotaryTables) {
  for (const ContextProjection context : {ContextProjection::table, ContextProjection::direct})
    check_outgrown(context, 1e-9);
}

TEST(Engine, AStreamWithABf16CacheOutgrowsTheRotaryTables) {
  check_outgrown(ContextProjection::direct, tolerance_of(DType::bf16), DType::f32, nullptr,
                 KvCache::bfloat16);
}

TEST(Engine, ASequenceDoesNotDependOnTheOthers) {
  for (const DType type : {DType::f32, DType::f64}) {
    const auto model = varied_model(generation_config(), type);
    for (const GenerationPolicy policy : kAll)
      for (const int64_t slots : {2, 5, 9})
        for (const int64_t prompt_steps : {0, 8})
          for (const KvCache cache : {KvCache::automatic, KvCache::bfloat16})
            if (type == DType::f32 || cache == KvCache::automatic)
              check_independence(*model, policy, slots, {.prompt_steps = prompt_steps, .kv_cache = cache});
  }
}

TEST(Engine, APromptThatIsBeingReadCanBeCopiedAndSaved) {
  const auto model = varied_model(generation_config(), DType::f32);
  EngineOptions options{.slots = 4, .prompt_steps = 6};
  Engine engine(*model, options);
  engine.admit(0, sequence_of(1, 0));
  engine.step();
  engine.admit(1, sequence_of(6, 1));
  engine.step();
  EXPECT_EQ(engine.length(1), 6) << "one token is read, none chosen";
  EXPECT_EQ(engine.length(0), 3) << "the other goes on";
  while (engine.in_flight() > 0) engine.collect();
  engine.copy(engine, 1, 2);
  restore_saved(engine, 1, 3);
  EXPECT_EQ(engine.passes(), 0);
  for (int64_t i = 0; i < 15; ++i) engine.step();
  while (engine.in_flight() > 0) engine.collect();
  const auto alone = generate_alone(*model, options, sequence_of(6, 1), engine.length(1) - 6);
  EXPECT_EQ(alone.size(), 6u + 11u);
  for (const int64_t s : {1, 2, 3}) EXPECT_EQ(engine.tokens(s), alone) << "slot " << s;
}

TEST(Engine, ShortPromptsAreReadInStepsWhereThatIsTheSame) {
  const auto steps = [](EngineOptions options) {
    options.prompt_steps = 8;
    return Engine(*varied_model(generation_config()), options).options().prompt_steps;
  };
  EXPECT_EQ(steps({}), 8);
  EXPECT_EQ(steps({.prompt_latents = 3}), 3) << "tokens before them would become latents";
  EXPECT_EQ(Engine(*varied_model(generation_config()), {}).options().prompt_steps, 0) << "on a CPU";
}

TEST(Engine, LogitsAreTheSameBitsForAnyNumberOfSlots) {
  const auto model = varied_model(generation_config(), DType::f32);
  std::vector<std::vector<double>> logits;
  for (const int64_t slots : {1, 2, 3, 4, 5, 8, 13}) {
    EngineOptions options;
    options.slots = slots;
    Engine engine(*model, options);
    for (int64_t s = 0; s < slots; ++s)
      engine.admit(s, sequence_of(5 + (slots - 1 - s), static_cast<uint32_t>(slots - 1 - s)));
    std::vector<double> all;
    for (int64_t step = 0; step < 20; ++step) {
      engine.compute();
      const std::vector<double> now = engine.logits(slots - 1);
      all.insert(all.end(), now.begin(), now.end());
      for (int64_t s = 0; s < slots; ++s) engine.push(s, greedy(engine.logits(s)));
    }
    logits.push_back(all);
  }
  for (const auto& each : logits) EXPECT_EQ(each, logits[0]);
}

/// A sequence for the slot, with positions where they must be given.
Sequence sequence_for(const ModelConfig& config, int64_t slot) {
  Sequence sequence = sequence_of(4 + slot, static_cast<uint32_t>(slot));
  for (int32_t p = 0; p < 24 && config.axes() > 1; ++p)
    sequence.positions.insert(sequence.positions.end(),
                              {1 + p / 6, 1 + (p + static_cast<int32_t>(slot)) % 6});
  return sequence;
}

/// All logits of the slot's sequence, alone: those that check_grown_alone compares with.
std::vector<std::vector<double>> logits_alone(const PerceiverAR& model, const EngineOptions& several,
                                              int64_t slot, int64_t tokens) {
  EngineOptions options = several;
  options.slots = 1;
  Engine engine(model, options);
  engine.admit(0, sequence_for(model.config(), slot));
  std::vector<std::vector<double>> all;
  for (int64_t t = 0; t < tokens; ++t) {
    engine.compute();
    all.push_back(engine.logits(0));
    engine.push(0, greedy(all.back()));
  }
  return all;
}

/// Slots 1, 3, 4 and 7 of 8 hold sequences, of which each step computes some: the busy ones lie in changing
/// places.
void check_grown_alone(const ModelConfig& config, ContextProjection context) {
  const auto model = varied_model(config, DType::f32);
  EngineOptions options;
  options.slots = 8;
  options.context = context;
  const std::vector<int64_t> held{1, 3, 4, 7};
  constexpr int64_t kTokens = 12;
  std::map<int64_t, std::vector<std::vector<double>>> alone;
  for (const int64_t s : held) alone[s] = logits_alone(*model, options, s, kTokens);
  Engine engine(*model, options);
  for (const int64_t s : held) engine.admit(s, sequence_for(config, s));
  engine.compute();
  std::map<int64_t, size_t> done;
  for (int64_t step = 0; step < 3 * kTokens; ++step) {
    for (const int64_t s : held) {
      ASSERT_EQ(engine.logits(s), alone[s][done[s]]) << "slot " << s << ", token " << done[s];
      if ((step * 5 + s) % 3 == 0 || done[s] + 1 == kTokens) continue;
      engine.push(s, greedy(engine.logits(s)));
      ++done[s];
    }
    engine.compute();
  }
  for (const int64_t s : held) EXPECT_EQ(done[s] + 1, kTokens);
}

TEST(Engine, OnlySlotsThatGrowAreComputedAndAsIfAlone) {
  for (const ContextProjection context : {ContextProjection::table, ContextProjection::direct})
    check_grown_alone(generation_config(), context);
  ModelConfig config = generation_config();
  config.latent_keys = LatentKeys::latents;
  check_grown_alone(config, ContextProjection::automatic);
  config = generation_config();
  config.position_encoding = PositionEncoding::absolute;
  config.latents_per_position = 2;
  check_grown_alone(config, ContextProjection::automatic);
  config.position_sizes = {7, 7};
  check_grown_alone(config, ContextProjection::automatic);
}

TEST(Engine, AStepLeavesOtherSlotsAsTheyAre) {
  const auto model = varied_model(generation_config(), DType::f32);
  EngineOptions options;
  options.slots = 5;
  Engine engine(*model, options);
  for (const int64_t s : {1, 3}) engine.admit(s, sequence_of(5, static_cast<uint32_t>(s)));
  engine.compute();
  const std::vector<double> before = engine.logits(3);
  for (int64_t t = 0; t < 6; ++t) {
    engine.push(1, greedy(engine.logits(1)));
    engine.compute();
  }
  EXPECT_EQ(engine.logits(3), before);
}

TEST(Engine, GivenPositionsAreArbitraryAndKeptWhenTokensAreDropped) {
  ModelConfig config = generation_config();
  config.position_encoding = PositionEncoding::absolute;
  config.position_sizes = {9, 7, 5};
  const auto model = varied_model(config);
  for (const GenerationPolicy policy : kAll) {
    EngineOptions options;
    options.policy = policy;
    Engine engine(*model, options);
    Sequence sequence;
    sequence.tokens = prompt_of(3);
    for (int32_t i = 0; i < 40; ++i)
      for (const int32_t p : {i * 5 % 9, i * 3 % 7, i % 5}) sequence.positions.push_back(p);
    engine.admit(0, sequence);
    LatentCount latents(engine, 3);
    for (int64_t length = 3; length < 40; ++length) {
      if (length > 3) latents.add(length > 24);
      engine.compute();
      if (latents.comparable()) {
        ASSERT_LE(difference(engine.logits(0), recomputed_logits(*model, engine.tokens(0), latents.count(),
                                                                 sequence.positions)),
                  1e-10)
            << length;
      }
      engine.push(0, greedy(engine.logits(0)));
    }
    EXPECT_TRUE(engine.ended(0));
    engine.compute();
    EXPECT_THROW(engine.push(0, 5), Error);
  }
}

TEST(Engine, StopsAtTheContextsEnd) {
  const auto model = varied_model(generation_config());
  EngineOptions options;
  options.context_end = ContextEnd::stop;
  Engine engine(*model, options);
  engine.admit(0, sequence_of(20, 0));
  int64_t chosen = 0;
  for (int64_t i = 0; i < 20; ++i) {
    engine.step();
    chosen += static_cast<int64_t>(engine.collect().size());
  }
  EXPECT_EQ(chosen, 5);  // the last follows a full context
  EXPECT_TRUE(engine.ended(0));
  EXPECT_THROW(engine.check(sequence_of(25, 0)), Error);
}

TEST(Engine, RefusesWhatCannotBe) {
  const auto model = varied_model(generation_config());
  const auto refused = [&](auto change) {
    EngineOptions options;
    change(options);
    EXPECT_THROW(Engine(*model, options), Error);
  };
  refused([](EngineOptions& o) { o.slots = 0; });
  refused([](EngineOptions& o) { o.latents = -1; });
  refused([](EngineOptions& o) { o.latents = 25; });
  refused([](EngineOptions& o) { o.refill = 9; });
  refused([](EngineOptions& o) { o.prompt_latents = 9; });
  refused([](EngineOptions& o) { o.kv_cache = KvCache::bfloat16; });  // the model is float64
  refused([](EngineOptions& o) { o.kv_cache = KvCache::float32; });
  refused([](EngineOptions& o) { o.kv_cache = KvCache::fp8; });  // on a CPU
  Engine engine(*model, {});
  const auto unusable = [&](auto change) {
    Sequence sequence = sequence_of(4, 0);
    change(sequence);
    EXPECT_THROW(engine.check(sequence), Error);
  };
  unusable([](Sequence& s) { s.tokens.clear(); });
  unusable([](Sequence& s) { s.tokens[2] = 29; });
  unusable([](Sequence& s) { s.tokens[2] = 0; });
  unusable([](Sequence& s) { s.positions = {1, 2, 3}; });
  unusable([](Sequence& s) { s.positions = {1, 2, 3, -1}; });
  unusable([](Sequence& s) { s.biases.resize(1); });
  unusable([](Sequence& s) { s.biases.assign(1, std::vector<float>(29, NAN)); });
}

TEST(Engine, TellsHowManySequencesWouldFit) {
  const auto model = varied_model(generation_config(), DType::f32);
  EngineOptions options;
  options.slots = int64_t{1} << 36;
  try {
    Engine engine(*model, options);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::failure);
    const std::string message = error.what();
    const auto place = message.find("at most ");
    ASSERT_NE(place, std::string::npos) << message;
    const int64_t fitting = std::stoll(message.substr(place + 8));
    EXPECT_GT(fitting, 1000);
    EXPECT_LT(fitting, options.slots);
  }
}

}  // namespace
}  // namespace perceiver
