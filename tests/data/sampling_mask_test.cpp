#include "data/sampling_mask.h"

#include <gtest/gtest.h>

#include "data/modality.h"

namespace perceiver {
namespace {

TEST(SamplingMask, RepeatsItsCycle) {
  SamplingMask mask;
  EXPECT_TRUE(mask.allows(5, 1));
  mask.sets = {{{3, 5}}, {{1, 2}, {5, 7}}};
  mask.cycle = {0, 0, 1};
  EXPECT_TRUE(mask.allows(0, 4));
  EXPECT_FALSE(mask.allows(1, 5));
  EXPECT_TRUE(mask.allows(5, 6));
  EXPECT_TRUE(mask.allows(2, 1));
  EXPECT_FALSE(mask.allows(2, 2));
  EXPECT_FALSE(mask.allows(3, 1));
}

}  // namespace
}  // namespace perceiver
