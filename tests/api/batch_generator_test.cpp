#include "perceiver/batch_generator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <thread>

#include "perceiver/error.h"
#include "perceiver/model.h"
#include "tests/support/api_model.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using namespace testing;
using ::testing::HasSubstr;

GenerateOptions options_of(uint64_t seed, int64_t tokens = 30) {
  GenerateOptions options;
  options.tokens = tokens;
  options.seed = seed;
  options.ignore_eos = true;
  return options;
}

void finish(BatchGenerator& batch) {
  while (batch.step()) {
  }
}

TEST(BatchGenerator, MakesWhatEachSequenceBecomesAlone) {
  const Model model = api_model();
  for (const int64_t slots : {1, 3, 8}) {
    BatchGenerator batch(model, {.slots = slots});
    for (uint64_t i = 0; i < 7; ++i)
      EXPECT_EQ(batch.add("prompt " + std::to_string(i), options_of(i, static_cast<int64_t>(10 + 5 * i))),
                static_cast<int64_t>(i));
    EXPECT_EQ(batch.unfinished(), 7);
    finish(batch);
    EXPECT_EQ(batch.unfinished(), 0);
    for (uint64_t i = 0; i < 7; ++i) {
      const GeneratedSequence made = batch.take(static_cast<int64_t>(i));
      Generator alone =
          model.start("prompt " + std::to_string(i), options_of(i, static_cast<int64_t>(10 + 5 * i)));
      std::string text;
      while (const auto token = alone.next()) text += token->text;
      EXPECT_EQ(made.text, text);
      EXPECT_EQ(made.sequence, alone.sequence());
      EXPECT_EQ(made.log_probability, alone.log_probability());
      EXPECT_EQ(made.finish_reason, FinishReason::length);
    }
    EXPECT_THAT(message_of([&] { batch.result(0); }), HasSubstr("was taken"));
  }
}

TEST(BatchGenerator, SequencesJoinLeaveForkAndAreCancelledWhileOthersGoOn) {
  const Model model = api_model();
  BatchGenerator batch(model, {.slots = 2});
  const int64_t first = batch.add("first", options_of(1, 40));
  for (int i = 0; i < 5; ++i) batch.step();
  const int64_t second = batch.add("second", options_of(2, 1'000'000));
  for (int i = 0; i < 5; ++i) batch.step();
  const int64_t third = batch.fork(first, 9);  // waits for a slot with its tokens so far
  const int64_t same = batch.fork(first, 1);
  EXPECT_EQ(batch.waiting(), 2);
  const std::vector<int32_t> shared = batch.result(third).tokens;
  EXPECT_EQ(shared, batch.result(first).tokens);
  EXPECT_GE(shared.size(), 9u);
  batch.cancel(second);
  finish(batch);
  EXPECT_EQ(batch.result(second).finish_reason, FinishReason::cancelled);
  EXPECT_EQ(batch.result(same).tokens, batch.result(first).tokens);
  const std::vector<int32_t> forked = batch.result(third).tokens;
  EXPECT_EQ(forked.size(), 40u);
  EXPECT_NE(forked, batch.result(first).tokens);
  EXPECT_TRUE(std::equal(shared.begin(), shared.end(), forked.begin()));
  EXPECT_EQ(batch.result(first).text, model.generate("first", options_of(1, 40)));
  EXPECT_THAT(message_of([&] { batch.fork(first, 3); }), HasSubstr("has ended"));
  batch.cancel(99);  // nobody's
}

TEST(BatchGenerator, AForkIntoAFreeSlotIsTheSameToo) {
  const Model model = api_model();
  BatchGenerator batch(model, {.slots = 4});
  const int64_t first = batch.add("first", options_of(1, 40));
  for (int i = 0; i < 12; ++i) batch.step();
  const int64_t same = batch.fork(first, 1), other = batch.fork(first, 2);
  EXPECT_EQ(batch.waiting(), 0);
  finish(batch);
  EXPECT_EQ(batch.result(same).tokens, batch.result(first).tokens);
  EXPECT_NE(batch.result(other).tokens, batch.result(first).tokens);
}

TEST(BatchGenerator, CallsBackForEveryTokenAndEndsWhereThatSaysSo) {
  const Model model = api_model();
  std::map<int64_t, std::string> texts;
  std::map<int64_t, int> counts;
  BatchGenerator batch(model, {.slots = 2}, [&](int64_t id, const GeneratedToken& token) {
    texts[id] += token.text;
    return ++counts[id] < 6 || id != 1;
  });
  for (uint64_t i = 0; i < 3; ++i) batch.add("x", options_of(i));
  finish(batch);
  EXPECT_EQ(counts[0], 30);
  EXPECT_EQ(counts[1], 6);
  EXPECT_EQ(batch.result(1).finish_reason, FinishReason::callback);
  EXPECT_EQ(batch.result(2).text, texts[2]);
}

TEST(BatchGenerator, AlternativesAndConstraintsAreThoseOfEachSequence) {
  const Model model = api_model();
  std::map<int64_t, std::vector<GeneratedToken>> seen;
  BatchGenerator batch(model, {.slots = 3}, [&](int64_t id, const GeneratedToken& token) {
    seen[id].push_back(token);
    return true;
  });
  GenerateOptions watched = options_of(1);
  watched.alternatives = 3;
  GenerateOptions bound = options_of(1);
  bound.logits = [](std::span<const int32_t> tokens, std::span<double> logits) {
    // Letters in turn: a after an even number of tokens, b after an odd one.
    const size_t wanted = 3 + (tokens.size() % 2 == 0 ? 'a' : 'b');
    for (size_t v = 0; v < logits.size(); ++v)
      if (v != wanted) logits[v] = -INFINITY;
  };
  batch.add("x", options_of(1));
  batch.add("x", watched);
  batch.add("x", bound);
  finish(batch);
  EXPECT_EQ(batch.result(0).tokens, batch.result(1).tokens);
  EXPECT_EQ(batch.result(2).text,
            "abababababababababababababab"
            "ab");
  for (const GeneratedToken& token : seen[0]) EXPECT_TRUE(token.alternatives.empty());
  ASSERT_EQ(seen[1].size(), 30u);
  for (size_t i = 0; i < seen[1].size(); ++i) {
    const GeneratedToken& token = seen[1][i];
    ASSERT_EQ(token.alternatives.size(), 3u);
    EXPECT_GE(token.alternatives[0].log_probability, token.alternatives[1].log_probability);
    EXPECT_EQ(token.log_probability, seen[0][i].log_probability);
    for (const Alternative& a : token.alternatives)
      EXPECT_TRUE(a.id != token.id || std::abs(a.log_probability - token.log_probability) < 1e-6);
  }
}

TEST(BatchGenerator, ASequenceThatCannotGoOnDoesNotDisturbTheOthers) {
  const Model model = api_model();
  BatchGenerator batch(model, {.slots = 2});
  batch.add("good", options_of(1));
  GenerateOptions options = options_of(2);
  options.logits = [](std::span<const int32_t> tokens, std::span<double> logits) {
    if (tokens.size() > 8) std::fill(logits.begin(), logits.end(), -INFINITY);
  };
  batch.add("bad", options);
  finish(batch);
  EXPECT_EQ(batch.result(0).text, model.generate("good", options_of(1)));
  EXPECT_EQ(batch.result(1).finish_reason, FinishReason::failed);
  EXPECT_EQ(batch.result(1).tokens.size(), 5u);
}

TEST(BatchGenerator, ACancelledPrefillIsGivenUp) {
  // A prefill of tens of thousands of tokens on one thread takes much longer than this test waits.
  const Model model = api_model("text", {}, 1, 1 << 17);
  BatchGenerator batch(model, {.slots = 2});
  const int64_t id = batch.add(std::string(130'000, 'x'), options_of(1, 1000));
  const int64_t other = batch.add("y", options_of(2));
  std::thread([&] { batch.cancel(id); }).join();
  finish(batch);
  EXPECT_EQ(batch.result(id).finish_reason, FinishReason::cancelled);
  EXPECT_EQ(batch.result(other).tokens.size(), 30u);
}

TEST(BatchGenerator, RefusesWhatCannotBeAndKeepsTheRest) {
  const Model model = api_model();
  EXPECT_THROW(BatchGenerator(model, {.slots = 0}), Error);
  BatchGenerator batch(model, {.slots = 2});
  batch.add("x", options_of(1));
  GenerateOptions options = options_of(1);
  options.policy = GenerationPolicy::stream;
  EXPECT_THAT(message_of([&] { batch.add("x", options); }), HasSubstr("BatchOptions"));
  options = options_of(1);
  options.temperature = -1;
  EXPECT_THROW(batch.add("x", options), Error);
  EXPECT_THAT(message_of([&] { batch.take(0); }), HasSubstr("has not ended"));
  EXPECT_THAT(message_of([&] { batch.next_logits(5); }), HasSubstr("no sequence 5"));
  finish(batch);
  EXPECT_EQ(batch.take(0).text, model.generate("x", options_of(1)));
}

}  // namespace
}  // namespace perceiver
