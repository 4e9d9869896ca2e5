// Generation with a context that ranks share: every rank chooses the tokens that one rank alone would.
#include <gtest/gtest.h>

#include "tests/support/generation_model.h"
#include "tests/support/gradient_check.h"
#include "tests/support/thread_world.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using namespace testing;

/// Two sequences, the longer one of which slides out of the context.
std::vector<std::vector<int32_t>> generated(const EngineOptions& options) {
  const auto model = varied_model(generation_config(), DType::f64, DeviceContext::cpu(1));
  Engine engine(*model, options);
  for (int64_t slot = 0; slot < 2; ++slot) {
    Sequence sequence;
    sequence.tokens = prompt_of(slot == 0 ? 17 : 2, static_cast<uint32_t>(slot));
    sequence.settings.seed = 5;
    sequence.settings.temperature = 1;
    engine.admit(slot, std::move(sequence));
  }
  for (int step = 0; step < 12; ++step) {
    engine.step();
    engine.collect();
  }
  return {engine.tokens(0), engine.tokens(1)};
}

TEST(SharedContextGeneration, EveryRankChoosesWhatOneRankWould) {
  EngineOptions options;
  options.slots = 2;
  options.policy = GenerationPolicy::exact;
  const auto expected = generated(options);
  for (const int ranks : {2, 3, 4})
    run_ranks(ranks, [&](ThreadWorld& world) {
      const auto group = world.communicator(cpu(), true);
      EngineOptions shared = options;
      shared.context_group = group.get();
      EXPECT_EQ(generated(shared), expected);
      shared.policy = GenerationPolicy::automatic;
      EXPECT_EQ(generated(shared), expected);
    });
}

TEST(SharedContextGeneration, OtherPoliciesAreRefused) {
  run_ranks(2, [&](ThreadWorld& world) {
    const auto group = world.communicator(cpu(), true);
    const auto model = varied_model(generation_config(), DType::f64, DeviceContext::cpu(1));
    EngineOptions options;
    options.context_group = group.get();
    options.policy = GenerationPolicy::refill;
    EXPECT_EQ(
        message_of([&] { Engine(*model, options); }),
        "this model allows only policy exact: 2 ranks share its context and none keeps keys and values");
    options.policy = GenerationPolicy::automatic;
    ModelConfig transformer = generation_config();
    transformer.type = ModelType::transformer;
    const auto other = varied_model(transformer, DType::f64, DeviceContext::cpu(1));
    EXPECT_EQ(message_of([&] { Engine(*other, options); }),
              "ranks cannot share a context: model.type transformer has none");
  });
}

}  // namespace
}  // namespace perceiver
