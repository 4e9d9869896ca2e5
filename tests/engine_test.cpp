// The engine of generation: its policies against passes over the whole sequence, for every option of the
// model.
#include "generate/engine.h"

#include <gtest/gtest.h>

#include <set>

#include "generation_model.h"
#include "gpu.h"
#include "perceiver/error.h"

namespace perceiver {
namespace {

using namespace testing;

/// How many latents the caches hold, told from the policy's definition.
class LatentCount {
 public:
  LatentCount(const Engine& engine, int64_t prompt)
      : options_(engine.options()),
        copies_(engine.model().config().latents_per_position),
        count_(std::min(options_.prompt_latents, prompt * copies_)) {}
  int64_t count() const { return count_; }
  /// Whether the caches hold what a pass over the whole sequence would compute: not where a latent was
  /// dropped, nor where the latents saw a token that has left the context since.
  bool comparable() const { return comparable_; }
  /// After one token more; `slides`: the context drops one for it.
  void add(bool slides) {
    const bool exact = options_.policy == GenerationPolicy::exact;
    if (count_ + copies_ <= options_.latents && !(exact && slides)) {
      count_ += copies_;
      comparable_ = comparable_ && !slides;
      return;
    }
    if (options_.policy == GenerationPolicy::refill) count_ = options_.refill;
    if (exact) count_ = options_.latents;
    comparable_ = options_.policy != GenerationPolicy::stream;
  }

 private:
  EngineOptions options_;
  int64_t copies_;
  int64_t count_;
  bool comparable_ = true;
};

/// Generates greedily and compares the logits of every step with a pass over the whole sequence with as many
/// latents as the caches hold, wherever the two should be the same.
void check_policy(const PerceiverAR& model, EngineOptions options, int64_t prompt, int64_t tokens,
                  double tolerance) {
  const int64_t slot = options.slots - 1;
  Engine engine(model, options);
  Sequence sequence;
  sequence.tokens = prompt_of(prompt);
  engine.admit(slot, sequence);
  LatentCount latents(engine, std::min(prompt, model.config().context_length));
  const bool transformer = model.config().type == ModelType::transformer;
  std::set<int32_t> distinct;
  int64_t kept = std::min(prompt, model.config().context_length), compared = 0;
  for (int64_t step = 0; step < tokens; ++step) {
    if (step > 0) {
      const bool slides = ++kept > model.config().context_length;
      const int64_t passes = engine.passes();
      latents.add(slides);
      engine.compute();
      const bool passed = engine.passes() > passes;
      if (passed && transformer) kept = latents.count();
    } else {
      engine.compute();
    }
    const std::vector<double> logits = engine.logits(slot);
    if (latents.comparable()) {
      const std::vector<double> expected = recomputed_logits(model, engine.tokens(slot), latents.count(), {},
                                                             transformer ? latents.count() : 0);
      ASSERT_LE(difference(logits, expected), tolerance) << "step " << step << ", prompt " << prompt;
      ++compared;
    }
    // A token that depends on the likeliest and on the step: greedy output of a small random model soon
    // repeats.
    engine.push(slot, 3 + static_cast<int32_t>((greedy(logits) * 7 + step * 5) % 26));
    distinct.insert(engine.tokens(slot).back());
  }
  if (tokens > 20) {
    EXPECT_GT(distinct.size(), 4u) << "the test would not notice a mistake";
  }
  EXPECT_GE(compared, 1);
  if (engine.options().policy == GenerationPolicy::exact) {
    EXPECT_EQ(compared, tokens);
  }
}

double tolerance_of(DType type) {
  return type == DType::f64 ? 1e-10 : type == DType::f32 ? 2e-4 : 8e-2;
}

void check_policies(const ModelConfig& config, const std::vector<GenerationPolicy>& policies,
                    DType type = DType::f64, std::shared_ptr<DeviceContext> context = nullptr,
                    ContextProjection kept = ContextProjection::automatic) {
  const auto model = varied_model(config, type, std::move(context));
  for (const GenerationPolicy policy : policies)
    for (const int64_t prompt : {1, 5, 8, 23, 24, 30}) {
      EngineOptions options;
      options.policy = policy;
      options.slots = 2;
      options.context = kept;
      check_policy(*model, options, prompt, 45, tolerance_of(type));
    }
}

const std::vector<GenerationPolicy> kAll{GenerationPolicy::exact, GenerationPolicy::refill,
                                         GenerationPolicy::stream};

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
  model->narrow_weights();
  EXPECT_GT(difference(recomputed_logits(*model, prompt_of(9), 8), before), 1e-4);
  for (const GenerationPolicy policy : kAll) {
    EngineOptions options;
    options.policy = policy;
    check_policy(*model, options, 5, 45, tolerance_of(DType::f32));
  }
  const auto wide = varied_model(generation_config(), DType::f64);
  EXPECT_THROW(wide->narrow_weights(), Error);
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

/// A stream is the same whether its positions are moved down on the way or not: the rotary tables of a model
/// that was asked to reach further are never outgrown.
void check_outgrown(ContextProjection context, double tolerance, DType type = DType::f64,
                    const std::shared_ptr<DeviceContext>& device = nullptr) {
  ModelConfig config = generation_config();
  config.extra_cross_attention_after = {0};
  config.query_offset = true;
  const auto run = [&](int64_t reach) {
    const auto model = varied_model(config, type, device);
    model->extend_rotary_tables(reach);
    EngineOptions options;
    options.policy = GenerationPolicy::stream;
    options.context = context;
    Engine engine(*model, options);
    Sequence sequence;
    sequence.tokens = prompt_of(5);
    engine.admit(0, sequence);
    std::vector<std::vector<double>> logits;
    for (int64_t step = 0; step < 2300; ++step) {
      engine.compute();
      if (step % 100 == 99) logits.push_back(engine.logits(0));
      engine.push(0, static_cast<int32_t>(3 + (step * step + step / 7) % 26));
    }
    return logits;
  };
  const auto near = run(0), far = run(4000);
  for (size_t i = 0; i < near.size(); ++i) EXPECT_LE(difference(near[i], far[i]), tolerance) << i;
}

TEST(Engine, AStreamOutgrowsTheRotaryTables) {
  for (const ContextProjection context : {ContextProjection::table, ContextProjection::direct})
    check_outgrown(context, 1e-9);
}

std::vector<int32_t> generate_alone(const PerceiverAR& model, EngineOptions options, const Sequence& sequence,
                                    int64_t tokens) {
  options.slots = 1;
  Engine engine(model, options);
  engine.admit(0, sequence);
  for (int64_t i = 0; i < tokens; ++i) engine.step();
  while (engine.in_flight() > 0) engine.collect();
  return engine.tokens(0);
}

Sequence sequence_of(int64_t prompt, uint32_t number) {
  Sequence sequence;
  sequence.tokens = prompt_of(prompt, number);
  sequence.settings.seed = 5;
  sequence.settings.sequence = number;
  sequence.settings.may_end = 0;
  return sequence;
}

/// Slots that start at different times with different prompts, beside what each becomes alone: the same bits.
void check_independence(const PerceiverAR& model, GenerationPolicy policy, int64_t slots,
                        EngineOptions options = {}) {
  options.policy = policy;
  options.slots = slots;
  Engine engine(model, options);
  const int64_t tokens = 30;
  for (int64_t step = 0; step < tokens + slots; ++step) {
    if (step < slots) engine.admit(step, sequence_of(1 + 3 * step, static_cast<uint32_t>(step)));
    if (step >= tokens) engine.release(step - tokens);
    engine.step();
    for (int64_t s = 0; s < slots; ++s) {
      if (!engine.occupied(s) || (step - s) % 7 != 3) continue;
      while (engine.in_flight() > 0) engine.collect();
      const auto alone =
          generate_alone(model, options, sequence_of(1 + 3 * s, static_cast<uint32_t>(s)), step - s + 1);
      ASSERT_EQ(engine.tokens(s), alone) << "slot " << s << " of " << slots << ", step " << step;
    }
  }
}

TEST(Engine, ASequenceDoesNotDependOnTheOthers) {
  for (const DType type : {DType::f32, DType::f64}) {
    const auto model = varied_model(generation_config(), type);
    for (const GenerationPolicy policy : kAll)
      for (const int64_t slots : {2, 5, 9}) check_independence(*model, policy, slots);
  }
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

TEST(Engine, PoliciesAreRecomputationOnTheGpu) {
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

TEST(Engine, PoliciesAreRecomputationWithTheContextAsTokensOnTheGpu) {
  SKIP_WITHOUT_GPU();
  ModelConfig config = generation_config();
  config.input_channels = config.latent_channels = 64;
  config.extra_cross_attention_after = {0};
  config.cross_heads = 4;
  config.rotary_head_fraction = 0.5;
  for (const DType type : {DType::f32, DType::bf16})
    check_policies(config, kAll, type, gpu(), ContextProjection::table);
}

TEST(Engine, AStreamOutgrowsTheRotaryTablesOnTheGpu) {
  SKIP_WITHOUT_GPU();
  check_outgrown(ContextProjection::table, 5e-4, DType::f32, gpu());
}

// Copied and saved sequences go on with the same bits.
TEST(Engine, CopiesOfAContextOfTokensGoOnOnTheGpu) {
  SKIP_WITHOUT_GPU();
  const auto model = varied_model(generation_config(), DType::bf16, gpu());
  EngineOptions options;
  options.slots = 3;
  options.context = ContextProjection::table;
  Engine engine(*model, options);
  engine.admit(0, sequence_of(20, 1));
  for (int64_t i = 0; i < 10; ++i) engine.step();
  while (engine.in_flight() > 0) engine.collect();
  engine.copy(engine, 0, 1);
  SafetensorsWriter writer;
  Engine::Storage storage;
  engine.save(0, writer, storage);
  const std::string saved = writer.file();
  engine.restore(2, SafetensorsFile::parse(std::as_bytes(std::span(saved)), "the saved sequence"));
  for (int64_t i = 0; i < 20; ++i) engine.step();
  while (engine.in_flight() > 0) engine.collect();
  EXPECT_EQ(engine.tokens(0).size(), 50u);
  EXPECT_EQ(engine.tokens(1), engine.tokens(0));
  EXPECT_EQ(engine.tokens(2), engine.tokens(0));
}

/// Of two engines that are given the same tokens, step by step.
void check_alike(Engine& one, Engine& other, int64_t steps, double tolerance) {
  for (Engine* engine : {&one, &other})
    for (int64_t s = 0; s < one.slots(); ++s)
      engine->admit(s, sequence_of(50 + 100 * s, static_cast<uint32_t>(s)));
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

TEST(Engine, TokensAndKeysOfTheContextAreAlikeOnTheGpu) {
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

TEST(Engine, ASequenceDoesNotDependOnTheOthersOnTheGpu) {
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
TEST(Engine, TheFusedStepIsThePlainOneOnTheGpu) {
  SKIP_WITHOUT_GPU();
  PerceiverAR model(fused_config(), gpu(), DType::bf16);
  model.parameters().initialize(3);
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

// Positions of the kept tokens move down, as the fused step's own.
TEST(Engine, TheFusedStepOutgrowsTheRotaryTablesOnTheGpu) {
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
TEST(Engine, AutomaticKeepsTheContextInTheFasterWayOnTheGpu) {
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
    EXPECT_TRUE(model.has_fused_step(1, config.latents, config.context_length, by_table));
  EXPECT_FALSE(model.has_fused_step(3, config.latents, config.context_length, true));
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
