#include "generate/stop_strings.h"

#include <gtest/gtest.h>

#include "perceiver/generator.h"

namespace perceiver {
namespace {

using namespace testing;

TEST(StopStrings, HoldBackWhatMayBeginOne) {
  StopStrings stop({"END", "ENTIRE"});
  EXPECT_EQ(stop.put("abcE"), "abc");
  EXPECT_EQ(stop.put("NT"), "");
  EXPECT_EQ(stop.put("x"), "ENTx");
  EXPECT_EQ(stop.put("aEN"), "a");
  EXPECT_FALSE(stop.found());
  EXPECT_EQ(stop.put("DEF"), "");
  EXPECT_TRUE(stop.found());
  EXPECT_EQ(stop.put("more"), "");
  EXPECT_EQ(stop.flush(), "");
  StopStrings open({"END"});
  EXPECT_EQ(open.put("EN"), "");
  EXPECT_EQ(open.flush(), "EN");
}

}  // namespace
}  // namespace perceiver
