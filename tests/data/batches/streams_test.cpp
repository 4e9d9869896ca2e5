// Training data cut into streams: what follows a row is in the same row of the next step.
#include "data/batches/streams.h"

#include <gtest/gtest.h>

#include <limits>

#include "data/batches/loader.h"
#include "perceiver/special_tokens.h"
#include "tests/support/fake_dataset.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

/// All tokens of the split, one document after the other.
std::vector<int32_t> joined(const std::vector<int64_t>& lengths) {
  std::vector<int32_t> tokens;
  for (size_t d = 0; d < lengths.size(); ++d)
    for (int64_t i = 0; i < lengths[d]; ++i) tokens.push_back(FakeDataset::token(static_cast<int64_t>(d), i));
  return tokens;
}

bool starts_document(int32_t token) {
  return (token - 3) % 1000 == 0;
}

TEST(Streams, ReadTheWholeDataInOrder) {
  const std::vector<int64_t> lengths{7, 2, 31, 5, 12};  // 57 tokens: three streams of 19
  const FakeDataset data(lengths);
  const std::vector<int32_t> all = joined(lengths);
  constexpr int64_t kStreams = 3, kColumns = 4, kLength = 19;
  const StreamSampler sampler(data, Split::train, kStreams, kColumns);
  ASSERT_EQ(sampler.steps(), 5);  // 18 targets of a stream
  Batch batch;
  for (int64_t step = 0; step < 2 * sampler.steps(); ++step) {
    sampler.fill(step, share_of(kStreams, 1), batch);
    const int64_t offset = step % sampler.steps() * kColumns,
                  count = std::min(kColumns, kLength - 1 - offset);
    for (int64_t row = 0; row < kStreams; ++row) {
      EXPECT_EQ(batch.lengths[static_cast<size_t>(row)], count);
      EXPECT_EQ(batch.preceding[static_cast<size_t>(row)], offset);
      for (int64_t n = 0; n < kColumns; ++n) {
        const auto cell = static_cast<size_t>(row * kColumns + n);
        const auto place = static_cast<size_t>(row * kLength + offset + n);
        const int32_t next = n < count ? all[place + 1] : pad_token;
        EXPECT_EQ(batch.tokens[cell], n < count ? all[place] : pad_token);
        EXPECT_EQ(batch.targets[cell], starts_document(next) ? pad_token : next);
      }
    }
  }
}

TEST(Streams, WhatIsGivenIsNotPredicted) {
  const FakeDataset data({10, 10}, 4);
  const StreamSampler sampler(data, Split::train, 1, 32);
  Batch batch;
  sampler.fill(0, share_of(1, 1), batch);
  for (size_t n = 0; n < 19; ++n) {
    const int64_t place = static_cast<int64_t>(n + 1) % 10;
    EXPECT_EQ(batch.targets[n] != pad_token, place >= 4) << n;
  }
}

TEST(Streams, ASharesRowsAreThoseOfTheWholeBatch) {
  const FakeDataset data({100, 33, 58});
  const StreamSampler sampler(data, Split::train, 8, 5);
  Batch whole, part;
  sampler.fill(3, share_of(8, 2), whole);
  const ExampleShare share = share_of(8, 2, 1, 2);
  sampler.fill(3, share, part);
  ASSERT_EQ(part.size, 4);
  for (int64_t row = 0; row < part.size; ++row)
    for (int64_t n = 0; n < 5; ++n)
      EXPECT_EQ(part.tokens[static_cast<size_t>(row * 5 + n)],
                whole.tokens[static_cast<size_t>(share.example(row) * 5 + n)]);
}

TEST(Streams, TooFewTokensAreAnError) {
  const FakeDataset data({5});
  EXPECT_EQ(message_of([&] { StreamSampler(data, Split::train, 3, 4); }),
            "the train data have 5 tokens, too few for 3 streams (train.batch)");
}

/// Documents of 10 tokens, as many as can be counted.
class EndlessDataset : public FakeDataset {
 public:
  EndlessDataset() : FakeDataset({10}) {}
  bool unbounded() const override { return true; }
  int64_t documents(Split) const override { return std::numeric_limits<int64_t>::max(); }
  int64_t document_length(Split, int64_t) const override { return 10; }
  void read(Split, int64_t, int64_t first, int64_t count, int32_t* out) const override {
    for (int64_t i = 0; i < count; ++i) out[i] = token(0, first + i);
  }
};

TEST(Streams, AreCutFromDataWithoutEnd) {
  const EndlessDataset data;
  const StreamSampler sampler(data, Split::train, 2, 4);
  EXPECT_GT(sampler.steps(), int64_t{1} << 59);
  Batch batch;
  sampler.fill(2, share_of(2, 1), batch);
  EXPECT_EQ(std::vector<int32_t>(batch.tokens.begin(), batch.tokens.begin() + 4),
            (std::vector<int32_t>{FakeDataset::token(0, 8), FakeDataset::token(0, 9),
                                  FakeDataset::token(0, 0), FakeDataset::token(0, 1)}));
}

class AugmentedDataset final : public FakeDataset {
 public:
  AugmentedDataset() : FakeDataset({40}) {}
  bool augments() const override { return true; }
};

class MirroredDataset final : public FakeDataset {
 public:
  MirroredDataset() : FakeDataset({2}) {}
  std::span<const int32_t> mirror() const override { return mirror_; }

 private:
  std::vector<int32_t> mirror_{0};
};

TEST(Streams, AreNotAugmented) {
  const AugmentedDataset augmented;
  const MirroredDataset mirrored;
  for (const Dataset* data :
       {static_cast<const Dataset*>(&augmented), static_cast<const Dataset*>(&mirrored)})
    EXPECT_NE(message_of([&] { StreamSampler(*data, Split::train, 1, 4); }).find("leave the augmentation"),
              std::string::npos);
}

TEST(Streams, ALoaderStartsAnywhere) {
  const FakeDataset data({100, 33, 58});
  ModelConfig model;
  model.type = ModelType::transformer_xl;
  model.vocabulary = data.vocabulary();
  model.context_length = model.latents = 6;
  Loader first(data, Split::train, model, 4, 1, 0);
  for (int step = 0; step < 5; ++step) first.next();
  Loader later(data, Split::train, model, 4, 2, 5);
  for (int step = 0; step < 6; ++step) {
    const Batch a = first.next(), b = later.next();
    expect_equal(a, b);
    EXPECT_EQ(a.preceding, b.preceding);
    EXPECT_EQ(a.preceding[0], (step + 5) % 8 * 6);
  }
}

}  // namespace
}  // namespace perceiver
