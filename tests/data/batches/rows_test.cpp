#include "data/batches/rows.h"

#include <gtest/gtest.h>

#include <vector>

#include "data/batches/crops.h"
#include "data/batches/loader.h"
#include "perceiver/error.h"
#include "tests/support/fake_dataset.h"

namespace perceiver {
namespace {

constexpr Split split = Split::train;

TEST(FillRow, OverwritesWhateverWasThere) {
  const FakeDataset data({10});
  Batch batch;
  batch.resize(2, 5, 1);
  for (auto* values : {&batch.tokens, &batch.targets, &batch.positions, &batch.lengths})
    values->assign(values->size(), -9);
  fill_row(data, split, {.document = 0, .first = 4, .count = 3, .scored = 2}, 1, batch);
  EXPECT_EQ(batch.tokens, (std::vector<int32_t>{-9, -9, -9, -9, -9, 7, 8, 9, 0, 0}));
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{-9, -9, -9, -9, -9, 0, 9, 10, 0, 0}));
  EXPECT_EQ(batch.positions, (std::vector<int32_t>{-9, -9, -9, -9, -9, 1, 2, 3, 0, 0}));
  EXPECT_EQ(batch.lengths, (std::vector<int32_t>{-9, 3}));
}

TEST(MicroBatch, PartsMakeUpTheWhole) {
  const FakeDataset data({5, 100, 30});
  Batch batch;
  CropSampler(data, Split::train, 16, 8).fill(1, 0, share_of(6, 1), batch);
  Batch together, part;
  together.size = 6, together.length = 16;
  for (int64_t i = 0; i < 3; ++i) {
    micro_batch(batch, i, 3, part);
    EXPECT_EQ(part.size, 2);
    const auto append = [](std::vector<int32_t>& to, const std::vector<int32_t>& from) {
      to.insert(to.end(), from.begin(), from.end());
    };
    append(together.tokens, part.tokens);
    append(together.targets, part.targets);
    append(together.positions, part.positions);
    append(together.lengths, part.lengths);
  }
  expect_equal(together, batch);
  expect_equal(micro_batch(batch, 0, 1), batch);
  EXPECT_THROW(micro_batch(batch, 0, 4), Error);
  EXPECT_THROW(micro_batch(batch, 0, 0), Error);
}

}  // namespace
}  // namespace perceiver
