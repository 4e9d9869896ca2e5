// Sequences for which no token can be chosen: the error comes once, and everything else goes on.
#include <gtest/gtest.h>

#include <cmath>

#include "generate/generate.h"
#include "perceiver/error.h"
#include "tests/support/engine_checks.h"

namespace perceiver {
namespace {

using namespace testing;

GenerationRequest request_of(bool possible) {
  GenerationRequest request;
  request.prompt = prompt_of(3);
  request.tokens = 6;
  request.ignore_eos = true;
  if (!possible)
    for (int32_t id = 0; id < 29; ++id) request.token_biases.emplace_back(id, -INFINITY);
  return request;
}

TEST(NoToken, GenerateThrowsOnceAndTheEngineStaysUsable) {
  const auto model = varied_model(generation_config());
  EngineOptions options;
  options.slots = 2;
  Engine engine(*model, options);
  const auto before = generate(engine, {request_of(true)});
  for (const auto& requests : {std::vector{request_of(false)},
                               {request_of(true), request_of(false)},
                               {request_of(false), request_of(true), request_of(true)}}) {
    try {
      generate(engine, requests);
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::failure);
      EXPECT_NE(std::string(error.what()).find("no token can be chosen"), std::string::npos);
    }
    EXPECT_EQ(engine.in_flight(), 0);
    for (int64_t s = 0; s < engine.slots(); ++s) EXPECT_FALSE(engine.occupied(s));
  }
  EXPECT_EQ(generate(engine, {request_of(true)})[0].tokens, before[0].tokens);
}

TEST(NoToken, WeightsThatAreNotNumbersThrowToo) {
  const auto model = varied_model(generation_config());
  fill(model->parameters().values(), [](int64_t) { return NAN; });
  model->parameters().publish();
  Engine engine(*model, {});
  EXPECT_THROW(generate(engine, {request_of(true)}), Error);
  EXPECT_THROW(generate(engine, {request_of(true)}), Error);
}

TEST(NoToken, TheOtherSlotsGoOn) {
  const auto model = varied_model(generation_config());
  EngineOptions options;
  options.slots = 2;
  const auto alone = generate_alone(*model, options, sequence_of(5, 1), 10);
  Engine engine(*model, options);
  engine.admit(0, sequence_of(request_of(false), 29));
  engine.admit(1, sequence_of(5, 1));
  engine.step();
  EXPECT_THROW(engine.collect(), Error);
  EXPECT_TRUE(engine.ended(0));
  EXPECT_FALSE(engine.ended(1));
  const auto rest = engine.collect();  // of the same step
  ASSERT_EQ(rest.size(), 1u);
  EXPECT_EQ(rest[0].slot, 1);
  for (int64_t i = 1; i < 10; ++i) {
    engine.step();
    engine.collect();
  }
  EXPECT_EQ(engine.tokens(1), alone);
  engine.compute();  // leaves the failed one alone
  EXPECT_THROW(engine.push(0, 5), Error);
  SafetensorsWriter writer;
  Engine::Storage storage;
  EXPECT_THROW(engine.save(0, writer, storage), Error);
  engine.release(0);
  engine.admit(0, sequence_of(5, 1));
  for (int64_t i = 0; i < 10; ++i) engine.step();
  while (engine.in_flight() > 0) engine.collect();
  EXPECT_EQ(engine.tokens(0), alone);
}

// Members that need the tokens in flight settle first: the error comes from them, once.
TEST(NoToken, SettlingThrowsOnce) {
  const auto model = varied_model(generation_config());
  EngineOptions options;
  options.slots = 2;
  Engine engine(*model, options);
  engine.admit(0, sequence_of(request_of(false), 29));
  engine.admit(1, sequence_of(5, 1));
  engine.step();
  const auto settings = engine.sampling(1);
  EXPECT_THROW(engine.set_sampling(1, settings), Error);
  EXPECT_NO_THROW(engine.set_sampling(1, settings));
  EXPECT_EQ(engine.tokens(1).size(), 6u);
}

}  // namespace
}  // namespace perceiver
