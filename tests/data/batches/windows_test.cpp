#include "data/batches/windows.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>
#include <vector>

#include "perceiver/error.h"
#include "perceiver/experimental/random.h"
#include "tests/support/fake_dataset.h"

namespace perceiver {
namespace {

constexpr Split split = Split::validation;

using Target = std::pair<int64_t, int64_t>;  ///< document, index

/// Checks one row against what it says it is, and counts the targets it scores.
void check_row(const WindowBatch& window, int64_t b, const WindowOptions& options,
               std::map<Target, int>& scored) {
  const int64_t n = options.context, count = window.batch.lengths[b];
  const int32_t* tokens = window.batch.tokens.data() + b * n;
  const int32_t* targets = window.batch.targets.data() + b * n;
  const int32_t* positions = window.batch.positions.data() + b * n;
  const int64_t document = window.documents[b];
  const int64_t end = window.first_targets[b] + window.scored[b];  // one past the last target
  const int64_t first = end - 1 - count;
  ASSERT_GE(window.scored[b], 1);
  ASSERT_LE(window.scored[b], options.stride);
  ASSERT_LE(window.scored[b], count);
  ASSERT_EQ(first, std::max<int64_t>(0, end - 1 - n)) << "not as much context as there is";
  for (int64_t i = 0; i < n; ++i) {
    ASSERT_EQ(tokens[i], i < count ? FakeDataset::token(document, first + i) : 0);
    ASSERT_EQ(positions[i], i < count ? i + 1 : 0);
    const bool is_scored = i < count && i >= count - window.scored[b];
    ASSERT_EQ(targets[i], is_scored ? FakeDataset::token(document, first + i + 1) : 0);
    if (is_scored) ++scored[{document, first + i + 1}];
  }
}

void check_every_target_once(const FakeDataset& data, const WindowOptions& options) {
  Windows windows(data, split, options);
  std::map<Target, int> scored;
  WindowBatch out;
  int64_t rows = 0;
  while (windows.next(out)) {
    ASSERT_LE(out.batch.size, options.batch);
    for (int64_t b = 0; b < out.batch.size; ++b) ASSERT_NO_FATAL_FAILURE(check_row(out, b, options, scored));
    rows += out.batch.size;
  }
  EXPECT_FALSE(windows.next(out));
  EXPECT_EQ(rows, windows.windows());
  std::map<Target, int> expected;
  for (int64_t d = 0; d < windows.documents(); ++d) {
    for (int64_t t = data.first_target(split, d); t < data.document_length(split, d); ++t)
      expected[{d, t}] = 1;
  }
  EXPECT_EQ(scored, expected);
  EXPECT_EQ(windows.targets(), static_cast<int64_t>(expected.size()));
  EXPECT_EQ(windows.units(), windows.targets());
}

TEST(Windows, ScoreEveryTargetOnceWithAllTheContextThereIs) {
  RandomStream random(11, RandomPurpose::sampling);
  const auto between = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random.below(high - low + 1));
  };
  for (int round = 0; round < 300; ++round) {
    std::vector<int64_t> lengths(between(1, 6));
    for (int64_t& length : lengths) length = between(0, 3) == 0 ? 2 : between(2, 60);
    WindowOptions options;
    options.context = between(1, 40);
    options.latents = between(1, options.context);
    options.stride = between(0, 3) == 0 ? 1 : between(1, options.latents);
    options.batch = between(1, 7);
    SCOPED_TRACE(fmt::format("N {} M {} S {} lengths {}", options.context, options.latents, options.stride,
                             fmt::join(lengths, " ")));
    check_every_target_once(FakeDataset(lengths), options);
    if (testing::Test::HasFailure()) return;
  }
}

TEST(Windows, CutADocumentAsDocumented) {
  const FakeDataset data({10});  // targets 1 to 9 in blocks of 4: 1–4, 5–8, 9; at most 6 inputs
  Windows windows(data, split, {.context = 6, .latents = 5, .stride = 4, .batch = 3});
  WindowBatch out;
  ASSERT_TRUE(windows.next(out));
  EXPECT_EQ(out.scored, (std::vector<int64_t>{4, 4, 1}));
  EXPECT_EQ(out.first_targets, (std::vector<int64_t>{1, 5, 9}));
  EXPECT_EQ(out.batch.lengths, (std::vector<int32_t>{4, 6, 6}));
  EXPECT_EQ(out.batch.tokens[6], FakeDataset::token(0, 2));
  EXPECT_EQ(out.batch.tokens[12], FakeDataset::token(0, 3));
}

TEST(Windows, AnEmptyDocumentIsOneTarget) {
  check_every_target_once(FakeDataset({2}), {.context = 8, .latents = 4, .stride = 4, .batch = 2});
}

TEST(Windows, StrideIsTheLatentsUnlessGiven) {
  const FakeDataset data({101});
  EXPECT_EQ(Windows(data, split, {.context = 50, .latents = 10}).windows(), 10);
  EXPECT_EQ(Windows(data, split, {.context = 50, .latents = 10, .stride = 1}).windows(), 100);
}

TEST(Windows, TakesTheFirstDocumentsOnly) {
  const FakeDataset data({5, 6, 7});
  const Windows two(data, split, {.context = 8, .latents = 8, .max_documents = 2});
  EXPECT_EQ(two.documents(), 2);
  EXPECT_EQ(two.targets(), 4 + 5);
  EXPECT_EQ(Windows(data, split, {.context = 8, .latents = 8, .max_documents = 9}).documents(), 3);
  check_every_target_once(data, {.context = 8, .latents = 8, .stride = 3, .batch = 2, .max_documents = 2});
}

TEST(Windows, StartAtTheFirstTarget) {
  check_every_target_once(FakeDataset({10, 20}, 5), {.context = 20, .latents = 4, .stride = 3, .batch = 4});
}

TEST(Windows, CanBeWalkedAgain) {
  const FakeDataset data({10, 20});
  Windows windows(data, split, {.context = 8, .latents = 4, .batch = 3});
  const auto walk = [&] {
    std::vector<int32_t> tokens;
    WindowBatch out;
    while (windows.next(out)) tokens.insert(tokens.end(), out.batch.tokens.begin(), out.batch.tokens.end());
    return tokens;
  };
  const std::vector<int32_t> first = walk();
  EXPECT_TRUE(walk().empty());
  windows.restart();
  EXPECT_EQ(walk(), first);
  EXPECT_EQ(static_cast<int64_t>(first.size()), windows.windows() * 8);
}

TEST(Windows, SharesAreDealtEvenlyAndMakeTheWhole) {
  const FakeDataset data({10, 2, 20, 7, 31});
  for (const int64_t shares : {1, 2, 3, 5, 40}) {
    WindowOptions options{.context = 8, .latents = 4, .stride = 3, .batch = 4, .shares = shares};
    std::map<Target, int> scored;
    int64_t fewest = 1000, most = 0, rounds = 0, targets = 0, windows = 0;
    for (options.share = 0; options.share < shares; ++options.share) {
      Windows share(data, split, options);
      WindowBatch out;
      int64_t rows = 0, batches = 0, before = static_cast<int64_t>(scored.size());
      while (share.next(out)) {
        ASSERT_LE(out.batch.size, options.batch);
        for (int64_t b = 0; b < out.batch.size; ++b) check_row(out, b, options, scored);
        rows += out.batch.size;
        ++batches;
      }
      EXPECT_EQ(share.share_targets(), static_cast<int64_t>(scored.size()) - before);
      fewest = std::min(fewest, rows), most = std::max(most, rows), rounds = std::max(rounds, batches);
      EXPECT_LE(batches, share.rounds());
      EXPECT_GE(batches, share.rounds() - 1);
      targets = share.targets(), windows = share.windows();
    }
    EXPECT_EQ(static_cast<int64_t>(scored.size()), targets);
    for (const auto& [target, times] : scored) EXPECT_EQ(times, 1);
    EXPECT_LE(most - fewest, options.batch);
    EXPECT_EQ(windows, 23);
    if (shares == 5) {
      EXPECT_EQ(most, 6);  // 2 rounds of 3, not one of 4 and one of 1
    }
    EXPECT_EQ(rounds, (windows + shares * options.batch - 1) / (shares * options.batch));
  }
}

TEST(Windows, RefusesContradictions) {
  const FakeDataset data({10}), empty({});
  EXPECT_THROW(Windows(data, split, {.context = 0, .latents = 1}), Error);
  EXPECT_THROW(Windows(data, split, {.context = 8, .latents = 9}), Error);
  EXPECT_THROW(Windows(data, split, {.context = 8, .latents = 0}), Error);
  EXPECT_THROW(Windows(data, split, {.context = 8, .latents = 4, .stride = 5}), Error);
  EXPECT_THROW(Windows(data, split, {.context = 8, .latents = 4, .stride = -1}), Error);
  EXPECT_THROW(Windows(data, split, {.context = 8, .latents = 4, .batch = 0}), Error);
  EXPECT_THROW(Windows(data, split, {.context = 8, .latents = 4, .max_documents = -1}), Error);
  EXPECT_THROW(Windows(empty, split, {.context = 8, .latents = 4}), Error);
}

TEST(PositionBuckets, CoverAllPositions) {
  EXPECT_EQ(position_bucket(0), 0);
  EXPECT_EQ(position_bucket(511), 0);
  EXPECT_EQ(position_bucket(512), 1);
  EXPECT_EQ(position_bucket(1023), 1);
  EXPECT_EQ(position_bucket(1024), 2);
  EXPECT_EQ(position_bucket(131071), 8);
  EXPECT_EQ(position_bucket(131072), 9);
  EXPECT_EQ(position_bucket(INT64_MAX), 9);
  EXPECT_EQ(position_bucket_name(0), "0-511");
  EXPECT_EQ(position_bucket_name(8), "65536-131071");
  EXPECT_EQ(position_bucket_name(9), "131072-");
  EXPECT_THROW(position_bucket_name(10), Error);
}

}  // namespace
}  // namespace perceiver
