// POST /v1/completions as clients see it.
#include "serve/completions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/test_server.h"

namespace perceiver {
namespace {

using namespace testing;
using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr const char* kPath = "/v1/completions";

/// The events of a stream; the last is "[DONE]".
std::vector<std::string> events_of(const std::string& body) {
  std::vector<std::string> events;
  for (size_t at = body.find("data: "); at != std::string::npos; at = body.find("data: ", at + 1)) {
    const size_t end = body.find("\n\n", at);
    EXPECT_NE(end, std::string::npos);
    events.push_back(body.substr(at + 6, end - at - 6));
  }
  return events;
}

TEST(Completions, AreWhatTheModelGeneratesAlone) {
  const TestServer server;
  const Json answer =
      server.answer(kPath, {{"prompt", "To be"}, {"max_tokens", 30}, {"seed", 7}, {"ignore_eos", true}});
  const Model model = api_model();
  EXPECT_EQ(answer["choices"][0]["text"],
            model.generate("To be", {.tokens = 30, .seed = 7, .ignore_eos = true}));
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(answer["choices"][0]["index"], 0);
  EXPECT_EQ(answer["object"], "text_completion");
  EXPECT_EQ(answer["model"], "small");
  EXPECT_EQ(answer["usage"], (Json{{"prompt_tokens", 5}, {"completion_tokens", 30}, {"total_tokens", 35}}));
}

TEST(Completions, OfSeveralPromptsAndContinuationsComeInOrder) {
  const TestServer server({.slots = 3});
  const Json answer = server.answer(
      kPath, {{"prompt", {"one", "two"}}, {"n", 3}, {"max_tokens", 12}, {"seed", 5}, {"ignore_eos", true}});
  ASSERT_EQ(answer["choices"].size(), 6u);
  const Model model = api_model();
  for (uint64_t i = 0; i < 6; ++i) {
    EXPECT_EQ(answer["choices"][i]["index"], i);
    EXPECT_EQ(answer["choices"][i]["text"],
              model.generate(i < 3 ? "one" : "two", {.tokens = 12, .seed = 5 + i % 3, .ignore_eos = true}));
  }
}

TEST(Completions, PromptsMayBeTokenIds) {
  const TestServer server;
  Json request{{"prompt", "ab"}, {"max_tokens", 9}, {"seed", 1}, {"return_token_ids", true}};
  const Json text = server.answer(kPath, request);
  request["prompt"] = {'a' + 3, 'b' + 3};
  const Json ids = server.answer(kPath, request);
  EXPECT_EQ(ids["choices"], text["choices"]);
  EXPECT_FALSE(ids["choices"][0]["token_ids"].empty());
}

TEST(Completions, StreamsTheSameTextPieceByPiece) {
  const TestServer server;
  Json request{{"prompt", "To be"}, {"max_tokens", 40}, {"seed", 3}, {"n", 2}, {"ignore_eos", true}};
  const Json whole = server.answer(kPath, request);
  request["stream"] = true;
  request["stream_options"] = {{"include_usage", true}};
  const httplib::Headers browser{{"Accept-Encoding", "gzip, deflate, br"}};
  const auto streamed = server.client().Post(kPath, browser, request.dump(), "application/json");
  ASSERT_TRUE(streamed);
  EXPECT_EQ(streamed->get_header_value("Content-Type"), "text/event-stream");
  EXPECT_EQ(streamed->get_header_value("Content-Encoding"), "") << "compression holds events back";
  const std::vector<std::string> events = events_of(streamed->body);
  ASSERT_GT(events.size(), 10u);
  EXPECT_EQ(events.back(), "[DONE]");
  std::string texts[2], reasons[2];
  for (size_t i = 0; i + 2 < events.size(); ++i) {
    const Json choice = Json::parse(events[i])["choices"][0];
    texts[choice["index"].get<size_t>()] += choice["text"];
    if (!choice["finish_reason"].is_null()) reasons[choice["index"].get<size_t>()] = choice["finish_reason"];
  }
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(texts[i], whole["choices"][i]["text"]);
    EXPECT_EQ(reasons[i], "length");
  }
  EXPECT_EQ(Json::parse(events[events.size() - 2])["usage"]["completion_tokens"], 80);
}

TEST(Completions, EndBeforeStopStrings) {
  const TestServer server;
  Json request{{"prompt", "x"}, {"max_tokens", 60}, {"seed", 2}, {"ignore_eos", true}};
  const std::string text = server.answer(kPath, request)["choices"][0]["text"];
  const auto letter = std::find_if(text.begin() + 5, text.end(), [](char c) { return c > ' '; });
  ASSERT_NE(letter, text.end());
  const std::string stop(1, *letter);
  request["stop"] = {stop};
  const Json stopped = server.answer(kPath, request)["choices"][0];
  EXPECT_EQ(stopped["text"], text.substr(0, text.find(stop)));
  EXPECT_EQ(stopped["finish_reason"], "stop");
}

TEST(Completions, GiveLogProbabilitiesAndAlternatives) {
  const TestServer server;
  const Json choice = server.answer(kPath, {{"prompt", "q"},
                                            {"max_tokens", 6},
                                            {"temperature", 0},
                                            {"logprobs", 3},
                                            {"ignore_eos", true}})["choices"][0];
  const Json& log = choice["logprobs"];
  ASSERT_EQ(log["tokens"].size(), 6u);
  for (size_t i = 0; i < 6; ++i) {
    double best = -INFINITY;
    for (const auto& [text, value] : log["top_logprobs"][i].items())
      best = std::max(best, value.get<double>());
    EXPECT_NEAR(log["token_logprobs"][i].get<double>(), best, 1e-9);  // greedy
    EXPECT_LE(log["top_logprobs"][i].size(), 3u);
  }
}

TEST(Completions, EchoScoresThePromptWithoutATokenMore) {
  const TestServer server;
  const Json answer =
      server.answer(kPath, {{"prompt", "hello"}, {"max_tokens", 0}, {"echo", true}, {"logprobs", 0}});
  EXPECT_EQ(answer["choices"][0]["text"], "hello");
  const Json& values = answer["choices"][0]["logprobs"]["token_logprobs"];
  const Score score = api_model().score(std::string("hello"));
  ASSERT_EQ(values.size(), 5u);
  for (size_t i = 0; i < 5; ++i) EXPECT_FLOAT_EQ(values[i].get<float>(), score.log_probabilities[i]);
  EXPECT_EQ(answer["usage"]["completion_tokens"], 0);
}

TEST(Completions, RefuseWhatCannotBeMet) {
  const TestServer server;
  const std::pair<const char*, const char*> cases[] = {
      {"", "not valid JSON"},
      {"[]", "must be a JSON object"},
      {"{\"prompt\": \"\xff\"}", "not valid JSON"},
      {R"({"prompt": 3})", "prompt must be a string"},
      {R"({"prompt": [2]})", "2 is no token of the data"},
      {R"({"prompt": [[5], "x", {}]})", "prompt must be a string"},
      {R"({"max_tokens": 0})", "max_tokens 0 needs echo"},
      {R"({"max_tokens": 1e9})", "max_tokens must be a whole number from 0 to 16384"},
      {R"({"max_tokens": "many"})", "max_tokens must be a whole number"},
      {R"({"temperature": -1})", "temperature must be a number from 0"},
      {R"({"top_p": 2})", "top_p must be a number from 0 to 1"},
      {R"({"n": 1000})", "n must be a whole number from 1 to 64"},
      {R"({"n": 60, "prompt": ["a", "b"]})", "120 continuations in one request; the most are 64"},
      {R"({"stop": ""})", "a stop string must have"},
      {R"({"stop": [1]})", "stop must be"},
      {R"({"logit_bias": {"x": 1}})", "'x' is no token id; the ids are 0 to 258"},
      {R"({"logit_bias": {"5": 1e9}})", "logit_bias.5 must be a number from -100 to 100"},
      {R"({"logprobs": 99})", "logprobs must be a whole number from 0 to 20"},
      {R"({"temprature": 1})", "'temprature' is unknown; did you mean temperature?"},
      {R"({"presence_penalty": 1})", "presence_penalty is not offered; use repetition_penalty"},
      {R"({"best_of": 4})", "best_of is not offered"},
      {R"({"stream_options": {"x": 1}})", "stream_options.'x' is unknown"},
      {R"({"model": 4})", "model must be a string"},
  };
  for (const auto& [body, message] : cases)
    EXPECT_THAT(server.refusal(kPath, body), HasSubstr(message)) << body;
  EXPECT_THAT(server.refusal(kPath, R"({"model": "other"})", 404),
              HasSubstr("no model 'other'; the choices: small"));
  EXPECT_THAT(server.refusal(kPath, "{\"prompt\": \"" + std::string(70'000, 'x') + "\"}"),
              HasSubstr("the prompt has 70000 tokens; the most are 65536"));
  EXPECT_THAT(server.refusal(kPath, std::string(100, '[')), HasSubstr("nested more than"));
}

TEST(Completions, ObeyBiases) {
  const TestServer server;
  Json bias = Json::object();
  for (int id = 3; id < 259; ++id) bias[std::to_string(id)] = -100;
  const Json answer = server.answer(kPath, {{"prompt", "x"}, {"logit_bias", bias}, {"max_tokens", 4}});
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "stop");
}

}  // namespace
}  // namespace perceiver
