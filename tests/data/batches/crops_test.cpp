#include "data/batches/crops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include <gmock/gmock.h>
#include "data/arrays/npy.h"
#include "data/sample_files.h"
#include "data/shards/shard_build.h"
#include "data/shards/shard_dataset.h"
#include "data/shards/shard_file.h"
#include "data/shards/shard_inputs.h"
#include "data/text/text_dataset.h"
#include "eval/evaluator.h"
#include "io/atomic_file.h"
#include "model/model_file.h"
#include "perceiver/error.h"
#include "tests/support/fake_dataset.h"
#include "tests/support/tiny_run.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

constexpr Split split = Split::train;

/// How often each end (one past the last target) comes up in `draws` crops of a single document.
std::map<int64_t, int> ends(const CropSampler& sampler, int draws) {
  std::map<int64_t, int> counts;
  for (int k = 0; k < draws; ++k) {
    const Row row = sampler.crop(1, 0, k);
    ++counts[row.first + row.count + 1];
  }
  return counts;
}

// L = 10, N = 4, M = 3: targets 1 to 9; the smallest crop ends with target 3, the last with target 9.
TEST(CropSampler, EndsAreUniformFromTheFirstMTargetsOn) {
  const FakeDataset data({10});
  const CropSampler sampler(data, split, 4, 3);
  const std::map<int64_t, int> counts = ends(sampler, 7000);
  ASSERT_EQ(counts.size(), 7u);
  EXPECT_EQ(counts.begin()->first, 4);
  EXPECT_EQ(counts.rbegin()->first, 10);
  double chi_squared = 0;
  for (const auto& [end, count] : counts) chi_squared += (count - 1000.0) * (count - 1000.0) / 1000.0;
  EXPECT_LT(chi_squared, 22.5);  // 6 degrees of freedom: exceeded once in a thousand seeds
}

/// How often each of the targets 1 to length - 1 is trained by `draws` crops.
std::vector<int> trained(int64_t length, int64_t predicted, Crops crops, int draws) {
  const FakeDataset data({length});
  const CropSampler sampler(data, split, 2 * predicted, predicted, crops);
  std::vector<int> counts(static_cast<size_t>(length));
  for (int k = 0; k < draws; ++k) {
    const Row row = sampler.crop(1, 0, k);
    const int64_t end = row.first + row.count + 1;
    for (int64_t t = end - std::min(row.scored, predicted); t < end; ++t) ++counts[static_cast<size_t>(t)];
  }
  counts.erase(counts.begin());
  return counts;
}

// 39 targets, 8 at a time, 32 crops.
TEST(CropSampler, UniformCropsTrainTheEndsOfADocumentLittle) {
  const std::vector<int> counts = trained(40, 8, Crops::uniform, 32000);
  EXPECT_NEAR(counts.front(), 1000, 150);
  EXPECT_NEAR(counts.back(), 1000, 150);
  EXPECT_NEAR(counts[19], 8000, 400);
}

// The same with weights of 8 for the first and the last crop, 46 in all.
TEST(CropSampler, EvenCropsTrainNoTargetLessThanTheMiddle) {
  const std::vector<int> counts = trained(40, 8, Crops::even, 46000);
  EXPECT_NEAR(counts.front(), 8000, 400);
  EXPECT_NEAR(counts.back(), 8000, 400);
  EXPECT_NEAR(counts[19], 8000, 400);
  for (const int count : counts) {
    EXPECT_GT(count, 7600);
    EXPECT_LT(count, 16000);
  }
}

TEST(CropSampler, EvenCropsOfShortDocuments) {
  for (const int64_t length : {2, 9, 10, 13, 17}) {  // up to M targets, a few more, almost 2 M
    const std::vector<int> counts = trained(length, 8, Crops::even, 10000);
    const auto [least, most] = std::minmax_element(counts.begin(), counts.end());
    EXPECT_LT(*most, 3.1 * *least) << length;
  }
}

TEST(CropSampler, RowsAreAsLongAsTheContextAllows) {
  const FakeDataset data({10});
  const CropSampler sampler(data, split, 4, 3);
  std::set<std::pair<int64_t, int64_t>> seen;
  for (int k = 0; k < 300; ++k) {
    const Row row = sampler.crop(1, 0, k);
    seen.emplace(row.first, row.count);
    EXPECT_EQ(row.scored, row.count);
  }
  const std::set<std::pair<int64_t, int64_t>> expected = {{0, 3}, {0, 4}, {1, 4}, {2, 4},
                                                          {3, 4}, {4, 4}, {5, 4}};
  EXPECT_EQ(seen, expected);
}

TEST(CropSampler, ShortDocumentsAreUsedWhole) {
  for (const int64_t length : {2, 3, 4}) {
    const FakeDataset data({length});
    for (int k = 0; k < 20; ++k) {
      const Row row = CropSampler(data, split, 8, 3).crop(1, 0, k);
      EXPECT_EQ(row.first, 0);
      EXPECT_EQ(row.count, length - 1);
    }
  }
}

TEST(CropSampler, AsManyLatentsAsColumns) {  // a decoder-only Transformer
  const FakeDataset data({9});
  const std::map<int64_t, int> counts = ends(CropSampler(data, split, 4, 4), 500);
  EXPECT_EQ(counts.begin()->first, 5);
  EXPECT_EQ(counts.rbegin()->first, 9);
  EXPECT_EQ(counts.size(), 5u);
}

// Documents shorter than M, about M and far longer: a target of each is trained about as often.
TEST(CropSampler, TargetsOfShortAndLongDocumentsAreTrainedEquallyOften) {
  const std::vector<int64_t> lengths = {2, 5, 9, 20, 300};
  const FakeDataset data(lengths);
  constexpr int64_t latents = 8;
  const CropSampler sampler(data, split, 16, latents);
  std::vector<double> trained(lengths.size());
  constexpr int draws = 100000;
  for (int k = 0; k < draws; ++k) {
    const Row row = sampler.crop(3, 0, k);
    trained[row.document] += static_cast<double>(std::min(row.scored, latents));
  }
  const double total = 8 + 8 + 8 + 19 + 299;
  for (size_t d = 0; d < lengths.size(); ++d) {
    const double per_target = trained[d] / static_cast<double>(lengths[d] - 1);
    EXPECT_NEAR(per_target / (draws * latents / total), 1, 0.1) << d;
  }
}

TEST(CropSampler, FillsRowsWithShiftedTargetsPositionsAndPadding) {
  const FakeDataset data({10, 3, 50});
  const CropSampler sampler(data, split, 6, 3);
  Batch batch;
  sampler.fill(4, 2, share_of(200, 1), batch);
  EXPECT_EQ(batch.size, 200);
  EXPECT_EQ(batch.length, 6);
  EXPECT_EQ(batch.axes, 1);
  std::set<int64_t> documents;
  for (int64_t b = 0; b < 200; ++b) {
    const Row row = sampler.crop(4, 2, b);
    documents.insert(row.document);
    ASSERT_EQ(batch.lengths[b], row.count);
    for (int64_t i = 0; i < 6; ++i) {
      const bool inside = i < row.count;
      ASSERT_EQ(batch.tokens[b * 6 + i], inside ? FakeDataset::token(row.document, row.first + i) : 0);
      ASSERT_EQ(batch.targets[b * 6 + i], inside ? FakeDataset::token(row.document, row.first + i + 1) : 0);
      ASSERT_EQ(batch.positions[b * 6 + i], inside ? i + 1 : 0);
    }
  }
  EXPECT_EQ(documents.size(), 3u);
}

TEST(CropSampler, TokensBeforeTheFirstTargetAreNotTargets) {
  const FakeDataset data({10}, 6);
  const CropSampler sampler(data, split, 9, 2);
  Batch batch;
  sampler.fill(1, 0, share_of(50, 1), batch);
  for (int64_t b = 0; b < 50; ++b) {
    EXPECT_GE(batch.lengths[b], 7);  // ends from 8 on: targets 6 and 7 at the least
    for (int64_t i = 0; i < 9; ++i) {
      const bool target = i + 1 >= 6 && i < batch.lengths[b];
      EXPECT_EQ(batch.targets[b * 9 + i] != 0, target);
    }
  }
}

TEST(CropSampler, DependsOnSeedStepAndExampleAlone) {
  const FakeDataset data({1000, 1000, 1000});
  const CropSampler sampler(data, split, 16, 8), other(data, split, 16, 8);
  const auto key = [&](const CropSampler& s, uint64_t seed, int64_t step, int64_t example) {
    const Row row = s.crop(seed, step, example);
    return row.document * 10000 + row.first;
  };
  EXPECT_EQ(key(sampler, 1, 2, 3), key(other, 1, 2, 3));
  std::set<int64_t> different;
  for (int64_t i = 0; i < 10; ++i)
    different.merge(
        std::set<int64_t>{key(sampler, 1 + i, 2, 3), key(sampler, 1, 20 + i, 3), key(sampler, 1, 2, 30 + i)});
  EXPECT_GT(different.size(), 25u);
  Batch small, large;
  sampler.fill(1, 2, share_of(3, 1), small);
  sampler.fill(1, 2, share_of(5, 1), large);
  EXPECT_TRUE(std::equal(small.tokens.begin(), small.tokens.end(), large.tokens.begin()));
}

TEST(CropSampler, AnEmptySplitIsAnError) {
  const FakeDataset data({});
  EXPECT_THROW(CropSampler(data, split, 4, 2), Error);
}

using testing::ElementsAre;

/// Doubles every id of a crop but SOS and EOS, and repeats its last token `extra` times.
class Augmented final : public FakeDataset {
 public:
  Augmented(std::vector<int64_t> lengths, int extra) : FakeDataset(std::move(lengths)), extra_(extra) {}
  bool augments() const override { return true; }
  void augment(std::vector<int32_t>& ids, RandomStream& random) const override {
    const int32_t shift = 1 + static_cast<int32_t>(random.below(5));
    for (int32_t& id : ids) id += shift;
    for (int i = 0; i < extra_; ++i) ids.push_back(ids.back());
    if (extra_ < 0) ids.resize(ids.size() - std::min(ids.size(), static_cast<size_t>(-extra_)));
  }

 private:
  int extra_;
};

TEST(CropSampler, CropsAreVaried) {
  for (const int extra : {0, 3, -2}) {
    const Augmented data({40}, extra);
    const CropSampler sampler(data, Split::train, 8, 4);
    Batch batch, again;
    sampler.fill(5, 3, share_of(6, 1), batch);
    sampler.fill(5, 3, share_of(6, 1), again);
    EXPECT_EQ(batch.tokens, again.tokens);
    for (int64_t i = 0; i < 6; ++i) {
      const Row row = sampler.crop(5, 3, i);
      const int32_t* tokens = batch.tokens.data() + i * 8;
      const int64_t count = std::min<int64_t>(8, row.count + extra);
      EXPECT_EQ(batch.lengths[static_cast<size_t>(i)], count);
      const int32_t shift = tokens[0] - FakeDataset::token(0, row.first);
      EXPECT_GE(shift, 1);
      EXPECT_LE(shift, 5);
      for (int64_t n = 0; n < count; ++n) {
        const int64_t source = row.first + std::min<int64_t>(n, row.count);
        EXPECT_EQ(tokens[n], FakeDataset::token(0, source) + shift);
        const int32_t target = batch.targets[static_cast<size_t>(i * 8 + n)];
        const int32_t wanted = FakeDataset::token(0, row.first + std::min(n + 1, row.count)) + shift;
        EXPECT_TRUE(target == 0 || target == wanted) << target;
        EXPECT_EQ(batch.positions[static_cast<size_t>(i * 8 + n)], n + 1);
      }
      for (int64_t n = count; n < 8; ++n) EXPECT_EQ(tokens[n], 0);
    }
  }
}

/// Documents whose mirror image is their tokens in reverse.
class Mirrored final : public FakeDataset {
 public:
  explicit Mirrored(int64_t length) : FakeDataset({length, length}) {
    for (int64_t i = length - 2; i >= 0; --i) mirror_.push_back(static_cast<int32_t>(i));
  }
  std::span<const int32_t> mirror() const override { return mirror_; }

 private:
  std::vector<int32_t> mirror_;
};

TEST(CropSampler, HalfOfTheCropsAreOfMirrorImages) {
  constexpr int64_t length = 21, examples = 400, columns = 8;
  const Mirrored data(length);
  const CropSampler sampler(data, split, columns, 4);
  Batch batch, again;
  sampler.fill(5, 3, share_of(examples, 1), batch);
  sampler.fill(5, 3, share_of(examples, 1), again);
  expect_equal(batch, again);
  int64_t mirrored = 0;
  for (int64_t i = 0; i < examples; ++i) {
    const Row row = sampler.crop(5, 3, i);
    const auto plain = [&](int64_t place) { return FakeDataset::token(row.document, place); };
    const auto image = [&](int64_t place) { return place == 0 ? plain(0) : plain(length - place); };
    // Of a target, which is never SOS: no place is its own mirror image.
    const int32_t last = batch.targets[static_cast<size_t>(i * columns + row.count - 1)];
    const bool is_image = last == image(row.first + row.count);
    mirrored += is_image;
    for (int64_t n = 0; n < columns; ++n) {
      const auto at = static_cast<size_t>(i * columns + n);
      const auto wanted = [&](int64_t place) { return is_image ? image(place) : plain(place); };
      ASSERT_EQ(batch.tokens[at], n < row.count ? wanted(row.first + n) : 0);
      const bool scored = n >= row.count - row.scored && n < row.count;
      ASSERT_EQ(batch.targets[at], scored ? wanted(row.first + n + 1) : 0);
      ASSERT_EQ(batch.positions[at], n < row.count ? n + 1 : 0);
    }
  }
  EXPECT_NEAR(static_cast<double>(mirrored), examples / 2.0, 40);  // four standard deviations
}

TEST(CropSampler, ACropThatVanishesIsUsedAsItIs) {
  const Augmented data({4}, -4);
  Batch batch;
  CropSampler(data, Split::train, 8, 4).fill(1, 1, share_of(1, 1), batch);
  EXPECT_THAT(std::vector<int32_t>(batch.tokens.begin(), batch.tokens.begin() + 4), ElementsAre(3, 4, 5, 0));
}

}  // namespace
}  // namespace perceiver
