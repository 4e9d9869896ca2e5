#include "generate/shared_generation.h"

#include <gtest/gtest.h>

#include "distributed/together.h"
#include "perceiver/error.h"
#include "tests/support/generation_model.h"
#include "tests/support/thread_world.h"

namespace perceiver {
namespace {

using namespace testing;

std::vector<GenerationRequest> requests_of(int64_t count) {
  std::vector<GenerationRequest> requests;
  for (int64_t i = 0; i < count; ++i) {
    GenerationRequest request;
    request.prompt = prompt_of(1 + 5 * i % 29, static_cast<uint32_t>(i) % 3);
    request.tokens = 1 + 7 * i % 13;
    request.sequence = static_cast<uint32_t>(i);
    request.sampling.seed = 7;
    requests.push_back(request);
  }
  return requests;
}

Engine engine_of(const PerceiverAR& model) {
  EngineOptions options;
  options.slots = 2;
  return Engine(model, options);
}

void expect_same(const std::vector<Completion>& a, const std::vector<Completion>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].tokens, b[i].tokens) << i;
    EXPECT_EQ(a[i].text, b[i].text) << i;
    EXPECT_EQ(a[i].log_probability, b[i].log_probability) << i;
    EXPECT_EQ(a[i].finish_reason, b[i].finish_reason) << i;
  }
}

// Fewer requests than ranks, an odd number, and more than fit in a round (16 for each of 2 slots).
TEST(SharedGeneration, IsThatOfOneRank) {
  for (const int64_t count : {1, 3, 11, 70}) {
    const std::vector<GenerationRequest> requests = requests_of(count);
    const auto model = varied_model(generation_config());
    Engine engine = engine_of(*model);
    const std::vector<Completion> alone = generate(engine, requests);
    for (const int ranks : {1, 2, 4}) {
      if (count == 70 && ranks == 4) continue;
      run_ranks(ranks, [&](World& world) {
        const auto mine = varied_model(generation_config());
        Engine own = engine_of(*mine);
        std::vector<int64_t> told;
        std::vector<int64_t> grown(requests.size(), 0);
        const auto grow = [&](int64_t request, const ChosenToken&, const std::string&) {
          ++grown[static_cast<size_t>(request)];
          return true;
        };
        const auto finished = [&](int64_t request, const Completion& completion) {
          EXPECT_EQ(completion.tokens, alone[static_cast<size_t>(request)].tokens);
          told.push_back(request);
        };
        expect_same(generate_together(&world, own, requests, grow, nullptr, finished), alone);
        for (size_t i = 0; i < requests.size(); ++i) {
          const bool own_request = static_cast<int>(i) % ranks == world.rank();
          EXPECT_EQ(grown[i], own_request ? static_cast<int64_t>(alone[i].tokens.size()) : 0);
        }
        EXPECT_EQ(told.size(), world.leads() ? requests.size() : 0);
        if (ranks > 1) {
          EXPECT_TRUE(std::is_sorted(told.begin(), told.end()));
        }
      });
    }
  }
}

TEST(SharedGeneration, WhatEndsOneRankEndsAll) {
  const std::vector<GenerationRequest> requests = requests_of(9);
  run_ranks(3, [&](World& world) {
    const auto model = varied_model(generation_config());
    Engine engine = engine_of(*model);
    const auto fail = [&](int64_t request, const ChosenToken&, const std::string&) -> bool {
      if (request == 4) throw Error(ErrorKind::failure, "no more");
      return true;
    };
    EXPECT_THROW(generate_together(&world, engine, requests, fail), Error);
    const auto reader_gone = [](int64_t, const Completion&) { throw Cancelled(); };
    EXPECT_THROW(generate_together(&world, engine, requests, {}, nullptr, reader_gone), Cancelled);
    std::vector<GenerationRequest> wrong = requests;
    wrong[2].prompt = {99999};
    EXPECT_THROW(generate_together(&world, engine, wrong), Error);
    EXPECT_EQ(generate_together(&world, engine, requests).size(), 9u);  // the engine is free again
  });
}

TEST(SharedGeneration, CompletionsAreUnpackedAsTheyWerePacked) {
  std::vector<Completion> some(3);
  some[0] = {
      .tokens = {3, -1, 70000}, .log_probability = -1.5, .text = std::string("a\0b", 3), .finish_reason = {}};
  some[2].finish_reason = FinishReason::context;
  const std::string bytes = pack(some);
  expect_same(unpack_completions(bytes), some);
  EXPECT_TRUE(unpack_completions("").empty());
  for (const size_t size : {size_t{1}, size_t{9}, bytes.size() - 1})
    EXPECT_THROW(unpack_completions(std::string_view(bytes).substr(0, size)), Error) << size;
}

}  // namespace
}  // namespace perceiver
