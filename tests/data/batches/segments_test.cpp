// Documents read segment by segment.
#include "data/batches/segments.h"

#include <gtest/gtest.h>

#include <map>

#include "perceiver/special_tokens.h"
#include "tests/support/fake_dataset.h"

namespace perceiver {
namespace {

TEST(DocumentSegments, EveryTargetIsScoredOnceAndRowsGoOn) {
  const FakeDataset data({9, 2, 14}, 2);
  DocumentSegments segments(data, Split::validation, {.length = 4, .rows = 2});
  EXPECT_EQ(segments.targets(), 7 + 0 + 12);
  WindowBatch batch;
  std::map<int64_t, int64_t> read;  // of each document
  int64_t scored = 0;
  while (segments.next(batch)) {
    ASSERT_EQ(batch.batch.size, 2);
    ASSERT_EQ(batch.batch.length, 4);
    for (size_t row = 0; row < 2; ++row) {
      scored += batch.scored[row];
      const int64_t document = batch.documents[row];
      if (document < 0) continue;
      EXPECT_EQ(batch.batch.preceding[row], read[document]);
      for (int64_t n = 0; n < batch.batch.lengths[row]; ++n)
        EXPECT_EQ(batch.batch.tokens[row * 4 + static_cast<size_t>(n)],
                  FakeDataset::token(document, read[document] + n));
      read[document] += batch.batch.lengths[row];
    }
  }
  EXPECT_EQ(read, (std::map<int64_t, int64_t>{{0, 8}, {1, 1}, {2, 13}}));
  EXPECT_EQ(scored, 7 + 12);
}

/// A batch of long segments takes time and memory whatever is in it.
TEST(DocumentSegments, AreNoLongerThanTheDocuments) {
  const FakeDataset data({5, 8, 3});
  DocumentSegments segments(data, Split::validation, {.length = 1 << 30, .rows = 3});
  WindowBatch batch;
  ASSERT_TRUE(segments.next(batch));
  EXPECT_EQ(batch.batch.length, 7);
  EXPECT_EQ(batch.scored, (std::vector<int64_t>{4, 7, 2}));
  EXPECT_FALSE(segments.next(batch));
}

}  // namespace
}  // namespace perceiver
