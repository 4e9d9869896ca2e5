#include "distributed/world.h"

#include <gmock/gmock.h>

#include "perceiver/error.h"
#include "tests/support/thread_world.h"

namespace perceiver {
namespace {

TEST(DefaultThreads, RanksShareAHost) {
  EXPECT_EQ(share_of_processors(64, 64, 64, 1), 64);
  EXPECT_EQ(share_of_processors(64, 64, 64, 8), 8);
  EXPECT_EQ(share_of_processors(2, 2, 2, 4), 1);
  EXPECT_EQ(share_of_processors(8, 8, 64, 8), 8);    // bound to its own
  EXPECT_EQ(share_of_processors(64, 16, 64, 8), 2);  // a quota for all
  EXPECT_EQ(share_of_processors(16, 16, 64, 8), 2);  // a mask for all
}

TEST(World, NamesTheRankThatDiffers) {
  run_ranks(3, [](ThreadWorld& world) {
    try {
      world.require_same(world.rank() == 2 ? "b" : "a", "the data");
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(),
                   "the ranks differ in the data: rank 0 has a, rank 2 has b; start every rank the same way");
      EXPECT_EQ(error.kind(), ErrorKind::user);
    }
    world.require_same("a", "the data");
  });
}

}  // namespace
}  // namespace perceiver
