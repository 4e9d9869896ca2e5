#include "config/duration.h"

#include <gtest/gtest.h>

namespace perceiver {
namespace {

TEST(Duration, IsANumberAndAUnit) {
  EXPECT_EQ(read_duration("90s"), 90);
  EXPECT_EQ(read_duration("20m"), 1200);
  EXPECT_EQ(read_duration("1.5h"), 5400);
  EXPECT_EQ(read_duration("0"), 0);
  EXPECT_EQ(read_duration("0m"), 0);
  EXPECT_EQ(read_duration("0.25s"), 0.25);
}

TEST(Duration, NothingElse) {
  for (const char* text :
       {"", "20", "m", "20 m", "20min", "-5m", "-0", "inf", "nan", "infs", "1e308h", "20m5", "0x10s", "2d"})
    EXPECT_FALSE(read_duration(text)) << text;
}

TEST(Duration, IsWrittenInItsLargestUnitAndReadsBack) {
  EXPECT_EQ(format_duration(0), "0");
  EXPECT_EQ(format_duration(90), "90s");
  EXPECT_EQ(format_duration(1200), "20m");
  EXPECT_EQ(format_duration(7200), "2h");
  for (const double seconds : {0.1, 1.0 / 3, 59.999, 5400.0, 1e15, 1e300})
    EXPECT_EQ(read_duration(format_duration(seconds)), seconds);
}

}  // namespace
}  // namespace perceiver
