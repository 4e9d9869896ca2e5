#include "train/progress.h"

#include <gmock/gmock.h>

#include <limits>

#include "tests/support/log_entries.h"
#include "tests/support/temp_folder.h"

namespace perceiver {
namespace {

using testing::eval_entry;
using testing::log_entry;

TEST(Progress, Lines) {
  EXPECT_EQ(progress_line(log_entry(1200)),
            "step 1200/5000  loss 1.2500 nats 1.8034 bits  lr 3.00e-04  gradient 2, 25% clipped  12.3k "
            "tokens/s  3:25 left");
  LogEntry skipping = log_entry(1);
  skipping.skipped = 2;
  EXPECT_THAT(progress_line(skipping), ::testing::EndsWith("left  2 skipped"));
  LogEntry unclipped = log_entry(1);
  unclipped.clipped = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(progress_line(unclipped), ::testing::HasSubstr("  gradient 2  12.3k tokens/s"));
  LogEntry resumed = log_entry(1);
  resumed.gradient_norm = std::numeric_limits<double>::quiet_NaN();
  resumed.targets_per_second = 0;
  EXPECT_THAT(progress_line(resumed), ::testing::EndsWith("lr 3.00e-04"));
  EvalEntry eval = eval_entry(1200);
  EXPECT_EQ(progress_line(eval), "step 1200  validation loss 2.0000 nats 2.8854 bits, 2.7500 bits per byte");
  eval.is_best = true;
  eval.bits_per_unit.reset();
  EXPECT_EQ(progress_line(eval), "step 1200  validation loss 2.0000 nats 2.8854 bits (best so far)");
}

TEST(Progress, Durations) {
  EXPECT_EQ(duration_text(7.4), "0:07");
  EXPECT_EQ(duration_text(754), "12:34");
  EXPECT_EQ(duration_text(11109), "3:05:09");
  EXPECT_EQ(duration_text(2 * 86400 + 3 * 3600 + 300), "2d 03:05");
  EXPECT_EQ(duration_text(-1), "?");
  EXPECT_EQ(duration_text(std::numeric_limits<double>::infinity()), "?");
}

}  // namespace
}  // namespace perceiver
