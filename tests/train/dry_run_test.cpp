#include "train/dry_run.h"

#include <gmock/gmock.h>

#include "tests/support/tiny_run.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

TEST(DryRun, MeasuresAndWritesNothing) {
  const TempFolder folder;
  RunHeader header;
  const DryRun measured =
      dry_run(tiny_config(100), folder.path("run"), [&](const RunHeader& found) { header = found; });
  EXPECT_EQ(header.device, "cpu");
  EXPECT_TRUE(header.generated);
  EXPECT_GT(measured.steps, 0);
  EXPECT_GT(measured.seconds_per_step, 0);
  EXPECT_GT(measured.device_bytes, header.memory.weights + header.memory.gradients);
  EXPECT_GE(measured.process_bytes, measured.device_bytes);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(DryRun, RefusesWhatTheRunWouldRefuse) {
  const TempFolder folder;
  const auto nothing = [](const RunHeader&) { FAIL(); };
  train(tiny_config(1), folder.path("run"));
  EXPECT_THAT(error_of(ErrorKind::user, [&] { dry_run(tiny_config(2), folder.path("run"), nothing); }),
              HasSubstr("already holds a run of 1 step"));
  Config config = tiny_config(1);
  config.data.copy_length = 40;
  EXPECT_THAT(error_of(ErrorKind::user, [&] { dry_run(config, folder.path("other"), nothing); }),
              HasSubstr("context_length"));
}

TEST(DryRun, SaysHowLongTheRunTakes) {
  const DryRun measured{
      .steps = 20, .seconds_per_step = 0.042, .device_bytes = 3 << 20, .process_bytes = 5 << 20};
  Config config = tiny_config(3000);
  EXPECT_EQ(duration_line(measured, config),
            "42 ms a step (mean of 20): 3000 steps take 2:06, and validations come on top");
  config.train.max_minutes = 1;
  EXPECT_THAT(duration_line(measured, config),
              HasSubstr("train.max_minutes ends it after 1:00, at about step 1429"));
  config.schedule.until = 60;
  EXPECT_EQ(
      duration_line(measured, config),
      "42 ms a step (mean of 20): about 1429 steps in the 1m of schedule.until, less what validations take");
  config.schedule.until = 90;
  EXPECT_THAT(duration_line(measured, config),
              HasSubstr("train.max_minutes ends it after 1:00, at about step 1429"));
  EXPECT_EQ(memory_line(measured), "3.0 MiB in tensors, 5.0 MiB of the process");
}

}  // namespace
}  // namespace perceiver
