#include "base/edit_distance.h"

#include <gtest/gtest.h>

namespace perceiver {
namespace {

TEST(EditDistance, CountsEditsUpToItsLimit) {
  EXPECT_EQ(edit_distance("kitten", "sitting", 100), 3u);
  EXPECT_EQ(edit_distance("", "abc", 100), 3u);
  EXPECT_EQ(edit_distance("abc", "abc", 100), 0u);
  EXPECT_EQ(edit_distance("kitten", "sitting", 2), 2u);
  EXPECT_EQ(nearest_word("sed", {"steps", "seed", "batch"}), 1u);
}

}  // namespace
}  // namespace perceiver
