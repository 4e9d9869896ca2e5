// Many requests through one engine.
#include "generate/generate.h"

#include <gtest/gtest.h>

#include <set>

#include "perceiver/error.h"
#include "perceiver/model.h"
#include "tests/support/generation_model.h"

namespace perceiver {
namespace {

using namespace testing;

GenerationRequest request_of(int64_t tokens, uint32_t sequence, uint64_t seed = 7, int64_t prompt = 3) {
  GenerationRequest request;
  request.prompt = prompt_of(prompt, sequence % 3);
  request.tokens = tokens;
  request.sequence = sequence;
  request.sampling.seed = seed;
  request.ignore_eos = true;
  return request;
}

std::vector<Completion> run(const PerceiverAR& model, const std::vector<GenerationRequest>& requests,
                            int64_t slots, GenerationPolicy policy = GenerationPolicy::automatic,
                            const TokenCallback& callback = {}) {
  EngineOptions options;
  options.slots = slots;
  options.policy = policy;
  Engine engine(model, options);
  return generate(engine, requests, callback);
}

TEST(Generate, WhatARequestBecomesDoesNotDependOnTheOthers) {
  for (const DType type : {DType::f32, DType::f64}) {
    const auto model = varied_model(generation_config(), type);
    std::vector<GenerationRequest> requests;
    for (uint32_t i = 0; i < 11; ++i) {
      requests.push_back(request_of(5 + 4 * i % 23, i, 7, 1 + 5 * i % 29));
      requests.back().ignore_eos = i % 2 == 0;
      requests.back().sampling.temperature = 0.5 + 0.1 * i;
      requests.back().sampling.top_k = i % 3 == 0 ? 5 : 0;
    }
    const auto together = run(*model, requests, 4);
    std::set<std::vector<int32_t>> distinct;
    for (size_t i = 0; i < requests.size(); ++i) {
      const Completion alone = run(*model, {requests[i]}, 1)[0];
      EXPECT_EQ(together[i].tokens, alone.tokens) << i;
      EXPECT_EQ(together[i].log_probability, alone.log_probability) << i;
      EXPECT_EQ(together[i].finish_reason, alone.finish_reason) << i;
      distinct.insert(alone.tokens);
    }
    EXPECT_EQ(distinct.size(), requests.size());
  }
}

TEST(Generate, TellsOnceThatARequestHasEnded) {
  const auto model = varied_model(generation_config());
  const std::vector<GenerationRequest> requests{request_of(9, 0), request_of(0, 1), request_of(3, 2),
                                                request_of(5, 3)};
  EngineOptions options;
  options.slots = 2;
  Engine engine(*model, options);
  std::vector<int64_t> ended;
  std::vector<Completion> told(requests.size());
  const auto finished = [&](int64_t request, const Completion& completion) {
    ended.push_back(request);
    told[static_cast<size_t>(request)] = completion;
  };
  const auto all = generate(engine, requests, {}, nullptr, finished);
  EXPECT_EQ(ended, (std::vector<int64_t>{1, 2, 3, 0})) << "no tokens first, then the shortest";
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(told[i].tokens, all[i].tokens);
    EXPECT_EQ(told[i].finish_reason, all[i].finish_reason);
  }
  const auto fails = [](int64_t, const Completion&) { throw std::runtime_error("the reader has gone"); };
  EXPECT_THROW(generate(engine, requests, {}, nullptr, fails), std::runtime_error);
  EXPECT_EQ(generate(engine, requests).size(), requests.size()) << "the engine is free again";
}

TEST(Generate, SeedsAndNumbersTellSequencesApart) {
  const auto model = varied_model(generation_config());
  const auto of = [&](uint64_t seed, uint32_t sequence) {
    return run(*model, {request_of(15, sequence * 3, seed)}, 1)[0].tokens;
  };
  EXPECT_EQ(of(7, 0), of(7, 0));
  EXPECT_NE(of(7, 0), of(7, 1));
  EXPECT_NE(of(7, 0), of(8, 0));
}

TEST(Generate, EndsEachSequenceOnItsOwn) {
  const auto model = varied_model(generation_config());
  std::vector<GenerationRequest> requests{request_of(15, 0), request_of(15, 1), request_of(0, 2),
                                          request_of(15, 3)};
  const auto whole = run(*model, requests, 4);
  EXPECT_EQ(whole[0].tokens.size(), 15u);
  EXPECT_EQ(whole[0].finish_reason, FinishReason::length);
  EXPECT_TRUE(whole[2].tokens.empty());
  // Cancelled by the caller after its first token; by its own fourth token.
  requests[3].stop_tokens = {whole[3].tokens[3]};
  const auto first = std::find(whole[3].tokens.begin(), whole[3].tokens.end(), whole[3].tokens[3]);
  const auto again =
      run(*model, requests, 2, GenerationPolicy::automatic,
          [](int64_t request, const ChosenToken&, const std::string&) { return request != 1; });
  EXPECT_EQ(again[0].tokens, whole[0].tokens);
  EXPECT_EQ(again[1].tokens.size(), 1u);
  EXPECT_EQ(again[1].finish_reason, FinishReason::callback);
  EXPECT_EQ(again[3].tokens, std::vector<int32_t>(whole[3].tokens.begin(), first + 1));
  EXPECT_EQ(again[3].finish_reason, FinishReason::end_token);
}

TEST(Generate, GreedyIsTheLikeliestTokenOfFullPasses) {
  GenerationRequest request = request_of(40, 0);
  request.sampling.temperature = 0;
  std::unique_ptr<PerceiverAR> model;
  std::vector<int32_t> generated;
  const auto varies = [&] { return std::set<int32_t>(generated.begin(), generated.end()).size() > 5; };
  for (uint64_t seed = 0; seed < 50 && !varies(); ++seed) {
    model = varied_model(generation_config(), DType::f64, nullptr, seed);
    generated = run(*model, {request}, 2, GenerationPolicy::exact)[0].tokens;
  }
  ASSERT_TRUE(varies());
  std::vector<int32_t> tokens = request.prompt;
  double log_probability = 0;
  for (const int32_t token : generated) {
    const auto logits =
        recomputed_logits(*model, tokens, std::min<int64_t>(8, static_cast<int64_t>(tokens.size())));
    ASSERT_EQ(token, greedy(logits));
    double sum = 0;
    for (const double logit : logits) sum += std::exp(logit - logits[static_cast<size_t>(token)]);
    log_probability -= std::log(sum);
    tokens.push_back(token);
  }
  EXPECT_NEAR(run(*model, {request}, 1, GenerationPolicy::exact)[0].log_probability, log_probability, 1e-8);
}

TEST(Generate, MasksChangeWithTheStep) {
  const auto model = varied_model(generation_config());
  GenerationRequest request = request_of(30, 0);
  for (int channel = 0; channel < 3; ++channel) {
    std::vector<float> row(29, -INFINITY);
    for (int v = 3 + channel * 8; v < 11 + channel * 8; ++v) row[static_cast<size_t>(v)] = 0;
    request.biases.push_back(row);
  }
  std::vector<GenerationRequest> requests{request_of(30, 1), request, request_of(30, 2)};
  requests[2].token_biases = {{7, 1000.0f}};
  const auto results = run(*model, requests, 2);
  for (size_t i = 0; i < 30; ++i) {
    EXPECT_EQ((results[1].tokens[i] - 3) / 8, static_cast<int32_t>(i % 3));
    EXPECT_EQ(results[2].tokens[i], 7);
  }
  EXPECT_EQ(results[0].tokens, run(*model, {requests[0]}, 1)[0].tokens);
}

TEST(Generate, ChecksRequestsBeforeAnyWork) {
  const auto model = varied_model(generation_config());
  int calls = 0;
  const auto refused = [&](auto change) {
    std::vector<GenerationRequest> requests{request_of(5, 0), request_of(5, 1)};
    change(requests[1]);
    EXPECT_THROW(run(*model, requests, 1, GenerationPolicy::automatic,
                     [&](int64_t, const ChosenToken&, const std::string&) { return ++calls > 0; }),
                 Error);
  };
  refused([](GenerationRequest& r) { r.tokens = -1; });
  refused([](GenerationRequest& r) { r.prompt.push_back(29); });
  refused([](GenerationRequest& r) { r.prompt.clear(); });
  refused([](GenerationRequest& r) { r.stop_tokens = {29}; });
  refused([](GenerationRequest& r) { r.stop_tokens = {-1}; });
  refused([](GenerationRequest& r) { r.token_biases = {{29, 0.0f}}; });
  refused([](GenerationRequest& r) { r.token_biases = {{5, NAN}}; });
  refused([](GenerationRequest& r) { r.biases.assign(1, std::vector<float>(30)); });
  refused([](GenerationRequest& r) { r.sampling.temperature = NAN; });
  EXPECT_EQ(calls, 0);
}

}  // namespace
}  // namespace perceiver
