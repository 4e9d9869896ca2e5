#include "train/partition.h"

#include <gtest/gtest.h>

#include <numeric>

#include "data/batches/example_share.h"

namespace perceiver {
namespace {

std::vector<ParameterRun> runs() {
  return {{0, 100, true, 0},      {100, 112, false, 0},   {112, 1200, false, 0}, {1200, 3200, false, 1},
          {3200, 5200, false, 1}, {5200, 5300, false, 1}, {5300, 5301, false, 2}};
}

TEST(Partition, EveryElementIsUpdatedByOneRankOrByAll) {
  for (const int ranks : {1, 2, 3, 4, 7, 64}) {
    for (const int64_t bucket : {1, 500, 4000, 1 << 20}) {
      std::vector<int> updates(5301, 0);
      for (int rank = 0; rank < ranks; ++rank) {
        const Partition partition = make_partition(runs(), rank, ranks, bucket);
        int64_t state = 0;
        for (const Slice& slice : partition.slices) {
          EXPECT_EQ(slice.state_begin % kSliceAlignment, 0);
          EXPECT_GE(slice.state_begin, state);
          state = slice.state_begin + slice.elements;
          for (int64_t i = 0; i < slice.elements; ++i)
            updates[slice.begin + i] += slice.shared && rank > 0 ? 0 : 1;
        }
        EXPECT_LE(state, partition.state_elements);
      }
      EXPECT_EQ(std::accumulate(updates.begin(), updates.end(), 0), 5301);
      EXPECT_EQ(*std::min_element(updates.begin(), updates.end()), 1);
    }
  }
}

TEST(Partition, BucketsCoverTheBufferAndKeepKindsApart) {
  const Partition partition = make_partition(runs(), 1, 4, 4000);
  std::vector<std::pair<int64_t, int64_t>> found;
  for (const Bucket& bucket : partition.buckets) {
    found.emplace_back(bucket.begin, bucket.end);
    EXPECT_EQ(bucket.divided() % (4 * kSliceAlignment), 0);
    EXPECT_LT(bucket.end - bucket.divided_end, bucket.begin == 0 ? 101 : 4 * kSliceAlignment);
  }
  const std::vector<std::pair<int64_t, int64_t>> expected{
      {0, 100}, {100, 1200}, {1200, 5200}, {5200, 5300}, {5300, 5301}};
  EXPECT_EQ(found, expected);
  EXPECT_EQ(partition.buckets[0].divided(), 0);  // kept whole by all
}

TEST(Partition, WithoutDivisionOneSliceIsEverything) {
  const Partition partition = undivided_partition(runs(), 1000);
  ASSERT_EQ(partition.slices.size(), 1u);
  EXPECT_EQ(partition.slices[0].elements, 5301);
  EXPECT_TRUE(partition.slices[0].shared);
  for (const Bucket& bucket : partition.buckets) EXPECT_EQ(bucket.divided(), 0);
}

TEST(ExampleShare, EveryExampleOfAStepBelongsToOneGroup) {
  for (const auto& [batch, parts, groups] : {std::array{12, 1, 4}, {12, 2, 4}, {15, 3, 4}, {8, 1, 3}}) {
    std::vector<int64_t> found;
    for (int64_t group = 0; group < groups; ++group) {
      const ExampleShare share = share_of(batch, parts, group, groups);
      EXPECT_GE(share.count, 1);
      for (int64_t i = 0; i < share.size(); ++i) {
        found.push_back(share.example(i));
        EXPECT_EQ(share.example(i) / (batch / parts), i / share.count);  // of the same micro-batch
      }
    }
    std::sort(found.begin(), found.end());
    std::vector<int64_t> all(batch);
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(found, all);
  }
}

}  // namespace
}  // namespace perceiver
