#include "train/save_timer.h"

#include <gtest/gtest.h>

namespace perceiver {
namespace {

TEST(SaveTimer, IsDueOnceItsTimeHasPassed) {
  SaveTimer timer(1e-9);
  while (!timer.due()) {
  }
  EXPECT_FALSE(SaveTimer(60).due());
}

TEST(SaveTimer, ZeroMinutesAreNever) {
  SaveTimer timer(0);
  timer.saved(0);
  EXPECT_FALSE(timer.due());
}

TEST(SaveTimer, SavingTakesAtMostATwentiethOfTheTime) {
  SaveTimer timer(5);
  timer.saved(2);
  EXPECT_EQ(timer.wait(), 300);
  timer.saved(30);
  EXPECT_EQ(30 / (30 + timer.wait()), 0.05);
  EXPECT_FALSE(timer.due());
  timer.saved(1);
  EXPECT_EQ(timer.wait(), 300);
}

}  // namespace
}  // namespace perceiver
