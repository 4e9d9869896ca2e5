// Likelihood by a model that remembers earlier segments: against one long segment, for every batch, number of
// ranks, segment and memory.
#include "eval/segment_evaluator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "tests/support/fake_dataset.h"
#include "tests/support/generation_model.h"
#include "tests/support/recurrent_model.h"
#include "tests/support/thread_world.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

/// Documents of random ids.
class RandomDocuments : public FakeDataset {
 public:
  explicit RandomDocuments(std::vector<int64_t> lengths, int64_t first_target = 1)
      : FakeDataset(std::move(lengths), first_target) {}
  int64_t vocabulary() const override { return 29; }
  void read(Split, int64_t document, int64_t first, int64_t count, int32_t* out) const override {
    for (int64_t i = 0; i < count; ++i)
      out[i] = 3 + static_cast<int32_t>((document * 31 + (first + i) * 7 + (first + i) * (first + i)) % 26);
  }
};

using Losses = std::map<std::pair<int64_t, int64_t>, double>;

Losses losses_of(const PerceiverAR& model, const Dataset& data, EvaluationOptions options,
                 EvaluationResult* result = nullptr) {
  Losses losses;
  options.target = [&](int64_t document, int64_t place, double nats) {
    EXPECT_TRUE(losses.emplace(std::pair{document, place}, nats).second);
  };
  const EvaluationResult r = evaluate(model, data, Split::validation, options);
  if (result != nullptr) *result = r;
  return losses;
}

void expect_close(const Losses& a, const Losses& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [place, nats] : a)
    EXPECT_NEAR(nats, b.at(place), 1e-10) << place.first << " " << place.second;
}

/// With a memory as long as the documents, segments do not matter.
TEST(SegmentEvaluator, SegmentsWithALongMemoryAreOneSegment) {
  const RandomDocuments data({40, 2, 17, 33, 5});
  for (const bool norm_first : {false, true}) {
    ModelConfig config = testing::recurrent_config();
    config.norm_first = norm_first;
    const auto model = testing::varied_model(config);
    EvaluationResult result;
    const Losses whole = losses_of(*model, data, {.latents = 64, .batch = 1, .memory_length = 1}, &result);
    EXPECT_EQ(result.tokens, 39 + 1 + 16 + 32 + 4);
    EXPECT_EQ(result.documents, 5);
    for (const int64_t length : {1, 3, 8, 40})
      for (const int64_t batch : {1, 2, 7})
        expect_close(losses_of(*model, data, {.latents = length, .batch = batch, .memory_length = 64}),
                     whole);
  }
}

/// With the same length of attention, every token sees the same whatever the segments.
TEST(SegmentEvaluator, SegmentsDoNotMatterWithTheSameLengthInOneLayer) {
  const RandomDocuments data({40, 2, 17, 33, 5});
  ModelConfig config = testing::recurrent_config();
  config.same_length = true;
  config.layers = 1;
  const auto model = testing::varied_model(config);
  const Losses single = losses_of(*model, data, {.latents = 1, .batch = 3});
  for (const int64_t length : {3, 8, 40})
    expect_close(losses_of(*model, data, {.latents = length, .batch = 2}), single);
}

TEST(SegmentEvaluator, AShorterMemoryChangesTheScore) {
  const RandomDocuments data({60});
  const auto model = testing::varied_model(testing::recurrent_config());
  const Losses full = losses_of(*model, data, {.latents = 4, .memory_length = 8}),
               less = losses_of(*model, data, {.latents = 4, .memory_length = 1});
  EXPECT_NEAR(full.at({0, 3}), less.at({0, 3}), 1e-12);
  double difference = 0;
  for (const auto& [place, nats] : full) difference = std::max(difference, std::abs(nats - less.at(place)));
  EXPECT_GT(difference, 1e-3);
}

TEST(SegmentEvaluator, WhatIsGivenIsNotScored) {
  const RandomDocuments data({20, 9}, 6);
  const auto model = testing::varied_model(testing::recurrent_config());
  const Losses losses = losses_of(*model, data, {.latents = 4});
  EXPECT_EQ(losses.size(), 14u + 3u);
  EXPECT_EQ(losses.begin()->first, (std::pair<int64_t, int64_t>{0, 6}));
}

TEST(SegmentEvaluator, AnyNumberOfRanksGetsTheSameResult) {
  const RandomDocuments data({40, 2, 17, 33, 5});
  const auto model = testing::varied_model(testing::recurrent_config());
  const EvaluationResult alone = evaluate(*model, data, Split::validation, {.batch = 2});
  for (const int ranks : {1, 2, 3, 7}) {
    run_ranks(ranks, [&](World& world) {
      const auto own = testing::varied_model(testing::recurrent_config());
      EvaluationOptions options{.batch = 2};
      options.world = &world;
      const EvaluationResult result = evaluate(*own, data, Split::validation, options);
      EXPECT_EQ(result.tokens, alone.tokens);
      EXPECT_EQ(result.units, alone.units);
      EXPECT_NEAR(result.nats, alone.nats, 1e-9);
    });
  }
}

TEST(SegmentEvaluator, RefusesWhatItCannotDo) {
  const RandomDocuments data({20});
  const auto model = testing::varied_model(testing::recurrent_config());
  EXPECT_NE(
      message_of([&] { evaluate(*model, data, Split::validation, {.stride = 2}); }).find("a stride of 2"),
      std::string::npos);
  const auto other = testing::varied_model(testing::generation_config());
  EXPECT_NE(message_of([&] {
              evaluate(*other, data, Split::validation, {.memory_length = 2});
            }).find("only model.type transformer_xl"),
            std::string::npos);
}

}  // namespace
}  // namespace perceiver
