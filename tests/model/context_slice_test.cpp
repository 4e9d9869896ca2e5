#include "model/context_slice.h"

#include <gtest/gtest.h>

namespace perceiver {
namespace {

TEST(ContextSlice, SlicesFollowOnOneAnotherAndFit) {
  for (const int64_t ranks : {1, 2, 3, 4, 7})
    for (const int64_t columns : {0, 1, 2, 3, 11, 12, 1000}) {
      int64_t end = 0;
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const ContextSlice slice = context_slice(columns, rank, ranks);
        EXPECT_EQ(slice.begin, end);
        EXPECT_GE(slice.columns(), 0);
        // A row has room for any example up to its length.
        EXPECT_LE(slice.columns(), slice_capacity(columns, ranks));
        end = slice.end;
      }
      EXPECT_EQ(end, columns);
    }
  EXPECT_EQ(slice_capacity(1 << 20, 8), 1 << 17);
}

}  // namespace
}  // namespace perceiver
