#include "model/context_share.h"

#include <gtest/gtest.h>

namespace perceiver {
namespace {

TEST(ContextShare, CountsEveryColumnOnce) {
  for (const int64_t ranks : {1, 2, 3, 4, 7})
    for (const int64_t columns : {0, 1, 2, 3, 11, 12, 1000})
      for (int64_t rank = 0; rank < ranks; ++rank) {
        int64_t own = 0;
        for (int64_t c = 0; c < columns; ++c) own += c % ranks == rank;
        EXPECT_EQ(shared_columns(columns, rank, ranks), own) << columns << " on " << rank << " of " << ranks;
      }
  EXPECT_EQ(shared_columns(1 << 20, 7, 8), 1 << 17);
}

}  // namespace
}  // namespace perceiver
