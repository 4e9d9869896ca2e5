#include "serve/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "serve/http_error.h"
#include "tests/support/api_model.h"

namespace perceiver::serve {
namespace {

using namespace perceiver::testing;
using std::chrono::milliseconds;

SequenceRequest request_of(const Model& model, int64_t tokens, uint64_t seed = 1) {
  return {model.tokenizer().prompt(std::string("x")), {.tokens = tokens, .seed = seed, .ignore_eos = true}};
}

/// The sequences of a request at their ends.
std::vector<GeneratedSequence> finish(Generation& generation, size_t count) {
  std::vector<GeneratedSequence> made(count);
  std::vector<SequenceEvent> events;
  while (generation.wait(milliseconds(1000), events)) {
    for (SequenceEvent& event : events)
      if (event.end) made[event.index] = std::move(*event.end);
    events.clear();
  }
  return made;
}

template <typename Condition>
bool soon(const Condition& condition) {
  for (int i = 0; i < 200 && !condition(); ++i) std::this_thread::sleep_for(milliseconds(5));
  return condition();
}

TEST(Scheduler, MakesOfEachSequenceWhatItBecomesAlone) {
  const Model model = api_model();
  Scheduler scheduler(model, {.slots = 2});
  std::vector<SequenceRequest> requests;
  for (uint64_t i = 0; i < 5; ++i) requests.push_back(request_of(model, 10 + static_cast<int64_t>(i), i));
  const auto generation = scheduler.submit(requests);
  const std::vector<GeneratedSequence> made = finish(*generation, 5);
  for (uint64_t i = 0; i < 5; ++i) EXPECT_EQ(made[i].text, model.generate("x", requests[i].options));
  EXPECT_TRUE(soon([&] { return scheduler.status().active == 0; }));
  EXPECT_EQ(scheduler.status().tokens, 10 + 11 + 12 + 13 + 14);
  EXPECT_EQ(scheduler.first_token().up_to(Histogram::kBounds.size()), 1);
}

TEST(Scheduler, ShowsTheQueueAndRefusesMoreThanItHolds) {
  const Model model = api_model();
  Scheduler scheduler(model, {.slots = 1, .queue = 2});
  const auto first = scheduler.submit({request_of(model, 1'000'000)});
  ASSERT_TRUE(soon([&] { return scheduler.status().active == 1; }));
  const auto second = scheduler.submit({request_of(model, 3)});
  const auto third = scheduler.submit({request_of(model, 3)});
  EXPECT_EQ(scheduler.status().queued, 2);
  EXPECT_EQ(scheduler.ahead_of(*first), 0);
  EXPECT_EQ(scheduler.ahead_of(*third), 1);
  EXPECT_THROW(scheduler.submit({request_of(model, 3)}), HttpError);
  scheduler.cancel(*second);
  EXPECT_EQ(scheduler.ahead_of(*third), 0);
  scheduler.cancel(*first);
  EXPECT_EQ(finish(*third, 1)[0].finish_reason, FinishReason::length);
  EXPECT_EQ(scheduler.status().cancelled, 2);
}

TEST(Scheduler, ACancelledPrefillFreesItsSlotWithinASecond) {
  const Model model = api_model("text", {}, 1, 1 << 18);
  Scheduler scheduler(model, {.slots = 1});
  const std::string prompt(1 << 18, 'x');
  const auto long_one =
      scheduler.submit({{model.tokenizer().prompt(prompt), {.tokens = 1'000, .ignore_eos = true}}});
  ASSERT_TRUE(soon([&] { return scheduler.status().active == 1; }));
  const auto before = Clock::now();
  scheduler.cancel(*long_one);
  const auto next = scheduler.submit({request_of(model, 1)});
  (void)finish(*next, 1);
  EXPECT_LT(Clock::now() - before, std::chrono::seconds(1));
}

TEST(Scheduler, ShowsSequencesAsTheyGrow) {
  const Model model = api_model();
  Scheduler scheduler(model, {.slots = 1});
  const auto generation = scheduler.submit({request_of(model, 2'000)}, milliseconds(1));
  std::vector<SequenceEvent> events;
  size_t length = 0, seen = 0;
  while (generation->wait(milliseconds(1000), events)) {
    for (const SequenceEvent& event : events) {
      if (!event.so_far) continue;
      EXPECT_GE(event.so_far->ids.size(), length);
      length = event.so_far->ids.size();
      ++seen;
    }
    events.clear();
  }
  EXPECT_GT(seen, 3u);
}

TEST(Scheduler, TokensInQuickSuccessionComeTogether) {
  const Model model = api_model();
  Scheduler scheduler(model, {.slots = 1});
  const auto generation = scheduler.submit({request_of(model, 500)});
  std::vector<SequenceEvent> events;
  size_t tokens = 0;
  Clock::time_point last;
  while (generation->wait(milliseconds(1000), events)) {
    const Clock::time_point now = Clock::now();
    const bool ended = !events.empty() && events.back().end;
    if (tokens > 0 && !ended) {
      EXPECT_GE(now - last, Generation::kPause - milliseconds(1));
    }
    for (const SequenceEvent& event : events) tokens += event.token ? 1 : 0;
    events.clear();
    last = now;
  }
  EXPECT_EQ(tokens, 500u);
}

TEST(Scheduler, StopEndsEverything) {
  const Model model = api_model();
  Scheduler scheduler(model, {.slots = 1});
  const auto running = scheduler.submit({request_of(model, 1'000'000)});
  const auto waiting = scheduler.submit({request_of(model, 1'000'000)});
  scheduler.stop();
  (void)finish(*running, 1);
  (void)finish(*waiting, 1);
  EXPECT_THROW(scheduler.submit({request_of(model, 1)}), HttpError);
}

TEST(Scheduler, ARequestThatCannotBeMetFailsAlone) {
  const Model model = api_model();
  Scheduler scheduler(model, {.slots = 1});
  SequenceRequest bad = request_of(model, 3);
  bad.options.temperature = -1;
  const auto refused = scheduler.submit({bad});
  const auto fine = scheduler.submit({request_of(model, 3)});
  std::vector<SequenceEvent> events;
  EXPECT_THROW(while (refused->wait(milliseconds(1000), events)){}, Error);
  EXPECT_EQ(finish(*fine, 1)[0].tokens.size(), 3u);
}

}  // namespace
}  // namespace perceiver::serve
