#include "data/copy_task.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "data/batches/crops.h"
#include "data/batches/windows.h"
#include "perceiver/error.h"

namespace perceiver {
namespace {

constexpr Split all_splits[] = {Split::train, Split::validation, Split::test};

std::vector<int32_t> sequence(const CopyTask& task, Split split, int64_t document) {
  std::vector<int32_t> out(task.document_length(split, document));
  task.read(split, document, 0, static_cast<int64_t>(out.size()), out.data());
  return out;
}

std::vector<int32_t> payload(const CopyTask& task, Split split, int64_t document) {
  std::vector<int32_t> out(task.payload_length(split, document));
  task.read(split, document, 1, task.payload_length(split, document), out.data());
  return out;
}

class CopyTaskOfLength : public testing::TestWithParam<int64_t> {};

TEST_P(CopyTaskOfLength, IsSosPalindromeEos) {
  const int64_t length = GetParam();
  const CopyTask task(length, 1);
  for (const Split split : all_splits) {
    const std::vector<int32_t> tokens = sequence(task, split, 5);
    ASSERT_EQ(static_cast<int64_t>(tokens.size()), length);
    EXPECT_EQ(tokens.front(), 2);
    EXPECT_EQ(tokens.back(), 1);
    for (int64_t i = 1; i < length - 1; ++i) {
      ASSERT_TRUE(tokens[i] >= 3 && tokens[i] < 259);
      ASSERT_EQ(tokens[i], tokens[length - 1 - i]) << i;
    }
  }
}

TEST(CopyTask, CenteredPositionsOfMirroredTokensAddUpToTheSame) {
  for (const int64_t length : {4, 32, 1024, 131072}) {
    const CopyTask task(length, 1, {CopyPositions::centered});
    std::vector<int32_t> all(static_cast<size_t>(length)), part(2);
    task.positions(Split::train, 0, 0, length, all.data());
    for (size_t i = 0; i < all.size(); ++i) ASSERT_EQ(all[i] + all[all.size() - 1 - i], 131073);
    EXPECT_GE(all.front(), 1);
    EXPECT_THAT(task.position_sizes(), testing::ElementsAre(131073));
    EXPECT_LT(all.back(), 131073);
    task.positions(Split::train, 0, 2, 2, part.data());
    EXPECT_THAT(part, testing::ElementsAre(all[2], all[3])) << "a row that starts later";
  }
  EXPECT_THROW(CopyTask(33, 1, {CopyPositions::centered}), Error);
}

TEST(CopyTask, OptionsChooseThePositions) {
  DataConfig config;
  config.type = "copy";
  EXPECT_TRUE(open_copy_task(config)->position_sizes().empty());
  config.options = {{"positions", "centered"}};
  EXPECT_FALSE(open_copy_task(config)->position_sizes().empty());
  config.options = {{"positions", "central"}};
  EXPECT_THROW(open_copy_task(config), Error);
  for (const auto& [name, value] :
       {std::pair{"position", "centered"}, {"shortest", "few"}, {"shortest", "33"}}) {
    config.options = {{name, value}};
    EXPECT_THROW(open_copy_task(config), Error) << name;
  }
}

TEST(CopyTask, LengthsSpreadOverAllOrdersOfMagnitude) {
  const CopyTask task(1024, 1, {CopyPositions::centered, 32});
  std::map<int64_t, int> octaves;
  for (int64_t document = 0; document < 2000; ++document) {
    const int64_t length = task.document_length(Split::train, document);
    ASSERT_TRUE(length % 2 == 0 && length >= 32 && length <= 1024) << length;
    ++octaves[length == 1024 ? 10 : std::ilogb(static_cast<double>(length))];
    const std::vector<int32_t> tokens = sequence(task, Split::train, document);
    ASSERT_EQ(tokens.back(), 1);
    ASSERT_EQ(tokens[1], tokens[tokens.size() - 2]);
    int32_t first = 0, last = 0;
    task.positions(Split::train, document, 0, 1, &first);
    task.positions(Split::train, document, length - 1, 1, &last);
    ASSERT_EQ(first + last, 131073);
  }
  EXPECT_NEAR(octaves[10], 1000, 100);
  for (int64_t octave = 5; octave < 10; ++octave) EXPECT_NEAR(octaves[octave], 200, 60) << octave;
}

// From first_target on every token is known from those before it: that is what makes accuracy 1 attainable.
TEST_P(CopyTaskOfLength, TargetsAreTheSecondHalf) {
  const int64_t length = GetParam();
  const CopyTask task(length, 1);
  EXPECT_EQ(length - task.first_target(Split::train, 0), length / 2);
  const std::vector<int32_t> tokens = sequence(task, Split::train, 0);
  for (int64_t t = task.first_target(Split::train, 0); t < length - 1; ++t) {
    ASSERT_LT(length - 1 - t, t);
    EXPECT_EQ(tokens[t], tokens[length - 1 - t]);
  }
  EXPECT_EQ(task.scored_units(Split::train, 0), length / 2 - 1);
}

TEST_P(CopyTaskOfLength, PartsAgreeWithTheWhole) {
  const int64_t length = GetParam();
  const CopyTask task(length, 1);
  const std::vector<int32_t> tokens = sequence(task, Split::test, 9);
  for (const int64_t first : {int64_t{0}, int64_t{1}, length / 3, length / 2, length - 1, length}) {
    const int64_t count = std::min<int64_t>(length - first, 7);
    std::vector<int32_t> part(count);
    task.read(Split::test, 9, first, count, part.data());
    EXPECT_TRUE(std::equal(part.begin(), part.end(), tokens.begin() + first));
  }
  int32_t token = 0;
  EXPECT_THROW(task.read(Split::test, 9, length, 1, &token), Error);
}

INSTANTIATE_TEST_SUITE_P(Lengths, CopyTaskOfLength,
                         testing::Values(4, 5, 6, 7, 31, 32, 33, 4096, 131071, 131072));

TEST(CopyTask, RefusesOtherLengths) {
  for (const int64_t length : {-1, 0, 3, 131073}) EXPECT_THROW(CopyTask(length, 0), Error);
}

TEST(CopyTask, SequencesDependOnSeedSplitAndNumberAlone) {
  const CopyTask task(32, 1), same(32, 1), other(32, 2);
  const std::vector<int32_t> first = sequence(task, Split::train, 3);
  EXPECT_EQ(sequence(same, Split::train, 3), first);
  EXPECT_NE(sequence(other, Split::train, 3), first);
  EXPECT_NE(sequence(task, Split::train, 4), first);
}

// Payloads of one byte: every byte there is comes up, in one split only, whatever the seed.
TEST(CopyTask, SplitsAreDisjointAndTogetherHoldEverything) {
  std::array<std::set<std::vector<int32_t>>, 3> seen;
  for (uint64_t seed = 0; seed < 3; ++seed) {
    const CopyTask task(4, seed);
    for (const Split split : all_splits) {
      for (int64_t i = 0; i < 1500; ++i) seen[static_cast<int>(split)].insert(payload(task, split, i));
    }
  }
  EXPECT_EQ(seen[0].size(), 224u);
  EXPECT_EQ(seen[1].size(), 16u);
  EXPECT_EQ(seen[2].size(), 16u);
  std::set<std::vector<int32_t>> all;
  for (const auto& part : seen) all.insert(part.begin(), part.end());
  EXPECT_EQ(all.size(), 256u);
}

TEST(CopyTask, SplitsOfLongerPayloadsAreToldApartByTheChecksum) {
  for (const int64_t length : {6, 32, 1000}) {
    for (const Split split : all_splits) {
      for (int64_t i = 0; i < 200; ++i) {
        int64_t sum = 0;
        for (const int32_t token : payload(CopyTask(length, 77), split, i)) sum += token - 3;
        const int64_t checksum = sum % 16;
        EXPECT_EQ(checksum == 0, split == Split::validation);
        EXPECT_EQ(checksum == 1, split == Split::test);
      }
    }
  }
}

// Each byte of a payload is uniform on its own, the one that carries the checksum too.
TEST(CopyTask, BytesAreUniform) {
  const CopyTask task(8, 5);
  for (const Split split : all_splits) {
    std::array<std::array<int, 256>, 3> counts{};
    constexpr int sequences = 25600;
    for (int64_t i = 0; i < sequences; ++i) {
      const std::vector<int32_t> bytes = payload(task, split, i);
      for (size_t k = 0; k < 3; ++k) ++counts[k].at(bytes[k] - 3);
    }
    for (const auto& of_place : counts) {
      double chi_squared = 0;
      for (const int count : of_place) chi_squared += (count - 100.0) * (count - 100.0) / 100.0;
      EXPECT_LT(chi_squared, 340);  // 255 degrees of freedom, mean 255, standard deviation 22.6
    }
  }
}

TEST(CopyTask, HalfAsManyLatentsAsColumnsScoreExactlyTheMirror) {
  const CopyTask task(32, 1);
  Batch batch;
  CropSampler(task, Split::train, 32, 16).fill(9, 4, share_of(8, 1), batch);
  for (int64_t b = 0; b < 8; ++b) {
    const int32_t* tokens = batch.tokens.data() + b * 32;
    const int32_t* targets = batch.targets.data() + b * 32;
    EXPECT_EQ(batch.lengths[b], 31);
    for (int64_t i = 0; i < 15; ++i) EXPECT_EQ(targets[i], 0);
    for (int64_t i = 15; i < 30; ++i) EXPECT_EQ(targets[i], tokens[30 - i]);
    EXPECT_EQ(targets[30], 1);
    EXPECT_EQ(targets[31], 0);
  }
}

// With fewer latents than mirrored tokens, crops end anywhere in the mirror, so that all of it is learned.
TEST(CopyTask, FewLatentsTrainOnTheWholeMirrorAndOnNothingElse) {
  const CopyTask task(32, 1);
  std::array<int, 33> trained{};
  const CropSampler sampler(task, Split::train, 32, 4);
  for (int64_t k = 0; k < 2000; ++k) {
    const Row row = sampler.crop(1, 0, k);
    EXPECT_EQ(row.first, 0);
    for (int64_t t = row.count + 1 - std::min<int64_t>(4, row.scored); t <= row.count; ++t) ++trained.at(t);
  }
  for (int64_t t = 0; t < 32; ++t) EXPECT_EQ(trained[t] > 0, t >= 16) << t;
}

TEST(CopyTask, EvaluationScoresTheMirrorInOneRow) {
  const CopyTask task(32, 1);
  Windows windows(task, Split::validation, {.context = 32, .latents = 16, .batch = 10});
  EXPECT_EQ(windows.documents(), 64);
  EXPECT_EQ(windows.windows(), 64);
  EXPECT_EQ(windows.targets(), 64 * 16);
  EXPECT_EQ(windows.units(), 64 * 15);
  WindowBatch out;
  ASSERT_TRUE(windows.next(out));
  EXPECT_EQ(out.scored, std::vector<int64_t>(10, 16));
  EXPECT_EQ(out.first_targets, std::vector<int64_t>(10, 16));
  EXPECT_EQ(out.batch.lengths, std::vector<int32_t>(10, 31));
}

TEST(CopyTask, NeedsAContextThatHoldsTheSequence) {
  const CopyTask task(64, 1);
  ModelConfig model;
  model.context_length = 63;
  EXPECT_NO_THROW(check_fits(task, model));
  model.context_length = 62;
  EXPECT_THROW(check_fits(task, model), Error);
}

}  // namespace
}  // namespace perceiver
