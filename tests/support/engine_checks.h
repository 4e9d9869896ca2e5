// Checks of the generation engine, for every device.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "generate/engine.h"
#include "tests/support/generation_model.h"

namespace perceiver::testing {

/// How many latents the caches hold by the policy's definition.
class LatentCount {
 public:
  LatentCount(const Engine& engine, int64_t prompt)
      : options_(engine.options()),
        copies_(engine.model().config().latents_per_position),
        count_(std::min(options_.prompt_latents, prompt * copies_)) {}
  int64_t count() const { return count_; }
  /// Whether the caches hold what a pass over the whole sequence would compute: false once a latent was
  /// dropped, or once the latents saw a token that has since left the context.
  bool comparable() const { return comparable_; }
  /// After one more token; `slides`: the context drops one for it.
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
/// latents as the caches hold, wherever the two must agree.
inline void check_policy(const PerceiverAR& model, EngineOptions options, int64_t prompt, int64_t tokens,
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
    // Depends on the step too, since greedy output of a small random model soon repeats.
    engine.push(slot, 3 + static_cast<int32_t>((greedy(logits) * 7 + step * 5) % 26));
    distinct.insert(engine.tokens(slot).back());
  }
  if (tokens > 20) {
    EXPECT_GT(distinct.size(), 4u) << "too few distinct tokens to notice a mistake";
  }
  EXPECT_GE(compared, 1);
  if (engine.options().policy == GenerationPolicy::exact) {
    EXPECT_EQ(compared, tokens);
  }
}

inline double tolerance_of(DType type) {
  return type == DType::f64 ? 1e-10 : type == DType::f32 ? 2e-4 : 8e-2;
}

inline void check_policies(const ModelConfig& config, const std::vector<GenerationPolicy>& policies,
                           DType type = DType::f64, std::shared_ptr<DeviceContext> context = nullptr,
                           ContextProjection kept = ContextProjection::automatic) {
  const auto model = varied_model(config, type, std::move(context));
  for (const GenerationPolicy policy : policies)
    for (const int64_t prompt : {1, 5, 8, 23, 24, 30}) {
      EngineOptions options;
      options.policy = policy;
      options.slots = 2;
      options.context = kept;
      for (const int64_t steps : {0, 5}) {
        options.prompt_steps = steps;
        if (prompt <= steps || steps == 0) check_policy(*model, options, prompt, 45, tolerance_of(type));
      }
    }
}

inline const std::vector<GenerationPolicy> kAll{GenerationPolicy::exact, GenerationPolicy::refill,
                                                GenerationPolicy::stream};

/// A stream is the same whether or not its positions are rebased on the way; with long enough rotary tables
/// they never are.
inline void check_outgrown(ContextProjection context, double tolerance, DType type = DType::f64,
                           const std::shared_ptr<DeviceContext>& device = nullptr,
                           KvCache kv_cache = KvCache::automatic, double scale = 2.2) {
  ModelConfig config = generation_config();
  config.extra_cross_attention_after = {0};
  config.query_offset = true;
  const auto run = [&](int64_t reach) {
    const auto model = varied_model(config, type, device, 3, scale);
    model->extend_rotary_tables(reach);
    EngineOptions options;
    options.policy = GenerationPolicy::stream;
    options.context = context;
    options.kv_cache = kv_cache;
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

inline std::vector<int32_t> generate_alone(const PerceiverAR& model, EngineOptions options,
                                           const Sequence& sequence, int64_t tokens) {
  options.slots = 1;
  Engine engine(model, options);
  engine.admit(0, sequence);
  for (int64_t i = 0; i < tokens; ++i) engine.step();
  while (engine.in_flight() > 0) engine.collect();
  return engine.tokens(0);
}

inline Sequence sequence_of(int64_t prompt, uint32_t number) {
  Sequence sequence;
  sequence.tokens = prompt_of(prompt, number);
  sequence.settings.seed = 5;
  sequence.settings.sequence = number;
  sequence.settings.allow_eos = 0;
  return sequence;
}

/// Saves the sequence of slot `from` and restores it in slot `to`, which is free.
inline void restore_saved(Engine& engine, int64_t from, int64_t to) {
  SafetensorsWriter writer;
  Engine::Storage storage;
  engine.save(from, writer, storage);
  const std::string saved = writer.file();
  engine.restore(to, SafetensorsFile::parse(std::as_bytes(std::span(saved)), "the saved sequence"));
}

/// Slots that start at different times with different prompts match, bit for bit, what each generates alone.
/// (A prompt that is read in steps delays its slot's first token.)
inline void check_independence(const PerceiverAR& model, GenerationPolicy policy, int64_t slots,
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
      const int64_t prompt = 1 + 3 * s, made = engine.length(s) - prompt;
      const auto alone = generate_alone(model, options, sequence_of(prompt, static_cast<uint32_t>(s)), made);
      ASSERT_EQ(engine.tokens(s), alone) << "slot " << s << " of " << slots << ", step " << step;
    }
  }
}

}  // namespace perceiver::testing
