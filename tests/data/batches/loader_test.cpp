#include "data/batches/loader.h"

#include <gtest/gtest.h>

#include <chrono>
#include <set>
#include <thread>

#include "perceiver/error.h"
#include "tests/support/fake_dataset.h"

namespace perceiver {
namespace {

ModelConfig model(int64_t vocabulary = 5003) {
  ModelConfig config;
  config.vocabulary = vocabulary;
  config.context_length = 16;
  config.latents = 8;
  return config;
}

TEST(Loader, DeliversTheSamplersBatchesInOrder) {
  const FakeDataset data({5, 100, 30});
  const CropSampler sampler(data, Split::train, 16, 8);
  Loader loader(data, Split::train, model(), 4, 7, 0);
  for (int64_t step = 0; step < 20; ++step) {
    EXPECT_EQ(loader.step(), step);
    Batch expected;
    sampler.fill(7, step, share_of(4, 1), expected);
    expect_equal(loader.next(), expected);
  }
}

TEST(Loader, GoesOnFromAnyStep) {
  const FakeDataset data({5, 100, 30});
  Loader whole(data, Split::train, model(), 3, 7, 0);
  for (int64_t step = 0; step < 9; ++step) whole.next();
  Loader resumed(data, Split::train, model(), 3, 7, whole.step());
  for (int64_t step = 0; step < 9; ++step) expect_equal(resumed.next(), whole.next());
  EXPECT_EQ(resumed.step(), 18);
}

TEST(Loader, ReusesStorageWithoutMixingBatches) {
  const FakeDataset data({5, 100, 30});
  Loader reusing(data, Split::train, model(), 3, 7, 0), fresh(data, Split::train, model(), 3, 7, 0);
  Batch batch;
  std::set<const int32_t*> storage;
  for (int64_t step = 0; step < 50; ++step) {
    reusing.next(batch);
    storage.insert(batch.tokens.data());
    expect_equal(batch, fresh.next());
  }
  EXPECT_LE(storage.size(), 6u);  // three waiting, one in the making, one here, one spare
}

TEST(Loader, PreparesAFewBatchesAheadAndNoMore) {
  const FakeDataset data({100});
  Loader loader(data, Split::train, model(), 1, 7, 0);
  loader.next();
  while (data.reads < 2 * 4) std::this_thread::yield();  // two reads a row: one batch taken, three waiting
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(data.reads, 2 * 4);
}

TEST(Loader, EndsAtOnceWithUntakenBatches) {
  const FakeDataset data({100});
  for (int i = 0; i < 50; ++i) Loader(data, Split::train, model(), 2, 7, 0);
  SUCCEED();  // a loader that waited for its batches to be taken would hang here
}

TEST(Loader, ThrowsWhatWentWrongInTheThread) {
  FakeDataset data({100, 100});
  data.broken_document = 1;
  const CropSampler sampler(data, Split::train, 16, 8);
  int64_t first_bad = 0;
  while (sampler.crop(5, first_bad, 0).document == 0) ++first_bad;
  Loader loader(data, Split::train, model(), 1, 5, 0);
  for (int64_t step = 0; step < first_bad; ++step) EXPECT_NO_THROW(loader.next());
  for (int again = 0; again < 2; ++again) {
    try {
      loader.next();
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(), "document 1 is broken");
    }
  }
  EXPECT_EQ(loader.step(), first_bad);
}

TEST(Loader, RefusesDataThatDoNotFit) {
  const FakeDataset data({100}), empty({});
  EXPECT_THROW(Loader(data, Split::train, model(259), 1, 0, 0), Error);
  EXPECT_THROW(Loader(empty, Split::train, model(), 1, 0, 0), Error);
}

}  // namespace
}  // namespace perceiver
