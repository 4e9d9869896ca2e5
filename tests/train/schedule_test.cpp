#include "perceiver/experimental/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "config/schema.h"

namespace perceiver {
namespace {

Config schedule(ScheduleType type, int64_t warmup = 10) {
  Config config;
  config.optimizer.learning_rate = 0.5;
  config.train.steps = 110;
  config.schedule.type = type;
  config.schedule.warmup_steps = warmup;
  config.schedule.warmup_initial = 0.1;
  config.schedule.final_learning_rate = 0.1;
  return config;
}

TEST(Schedule, EveryTypeWarmsUpLinearly) {
  for (const ScheduleType type : {ScheduleType::constant, ScheduleType::cosine, ScheduleType::steps,
                                  ScheduleType::t5, ScheduleType::linear}) {
    const Config config = schedule(type);
    EXPECT_DOUBLE_EQ(learning_rate(config, 0), 0.1);
    EXPECT_DOUBLE_EQ(learning_rate(config, 5), 0.3);
    EXPECT_DOUBLE_EQ(learning_rate(config, 9), 0.46);
    EXPECT_DOUBLE_EQ(learning_rate(config, 10), 0.5);
  }
}

TEST(Schedule, Constant) {
  EXPECT_EQ(learning_rate(schedule(ScheduleType::constant), 100000), 0.5);
  EXPECT_EQ(learning_rate(schedule(ScheduleType::constant, 0), 0), 0.5);
}

TEST(Schedule, CosineEndsAtTheLastStep) {
  Config config = schedule(ScheduleType::cosine);
  EXPECT_NEAR(learning_rate(config, 60), 0.3, 1e-12);
  EXPECT_NEAR(learning_rate(config, 35), 0.1 + 0.4 * 0.5 * (1 + std::sqrt(0.5)), 1e-12);
  EXPECT_NEAR(learning_rate(config, 110), 0.1, 1e-12);
  EXPECT_NEAR(learning_rate(config, 500), 0.1, 1e-12);
  config.schedule.decay_steps = 30;
  EXPECT_NEAR(learning_rate(config, 20), 0.3, 1e-12);
}

TEST(Schedule, LinearEndsAtTheLastStep) {
  Config config = schedule(ScheduleType::linear);
  EXPECT_NEAR(learning_rate(config, 35), 0.4, 1e-12);
  EXPECT_NEAR(learning_rate(config, 110), 0.1, 1e-12);
  EXPECT_NEAR(learning_rate(config, 500), 0.1, 1e-12);
}

TEST(Schedule, FollowsTheClock) {
  Config config = schedule(ScheduleType::linear);
  config.schedule.until = 60;
  EXPECT_NEAR(learning_rate(config, 1000, 0), 0.5, 1e-12);  // whatever the step
  EXPECT_NEAR(learning_rate(config, 20, 0.25), 0.4, 1e-12);
  EXPECT_NEAR(learning_rate(config, 20, 1), 0.1, 1e-12);
  EXPECT_NEAR(learning_rate(config, 20, 2), 0.1, 1e-12);
  EXPECT_NEAR(learning_rate(config, 5, 0.25), 0.1 + 0.5 * (0.4 - 0.1), 1e-12);  // half of the warm-up
  config.schedule.type = ScheduleType::cosine;
  EXPECT_NEAR(learning_rate(config, 20, 0.5), 0.3, 1e-12);
  config.schedule.until = 0;
  EXPECT_EQ(learning_rate(config, 20, 0.9), learning_rate(config, 20));
}

TEST(Schedule, DecayWithoutRoomForIt) {
  Config config = schedule(ScheduleType::cosine, 200);
  EXPECT_TRUE(std::isfinite(learning_rate(config, 200)));
  EXPECT_NEAR(learning_rate(config, 201), 0.1, 1e-12);
}

TEST(Schedule, StepsMultiplyAtTheirBoundaries) {
  Config config = schedule(ScheduleType::steps);
  config.schedule.step_boundaries = {20, 30};
  config.schedule.step_factors = {0.5, 0.1};
  EXPECT_DOUBLE_EQ(learning_rate(config, 19), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(config, 20), 0.25);
  EXPECT_DOUBLE_EQ(learning_rate(config, 30), 0.025);
}

TEST(Schedule, T5FallsWithTheRootOfTheStep) {
  const Config config = schedule(ScheduleType::t5);
  EXPECT_NEAR(learning_rate(config, 40), 0.25, 1e-12);
  EXPECT_NEAR(learning_rate(config, 1000), 0.05, 1e-12);
  const Config cold = schedule(ScheduleType::t5, 0);
  EXPECT_DOUBLE_EQ(learning_rate(cold, 0), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(cold, 1), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(cold, 4), 0.25);
  EXPECT_NE(find_config_key("schedule.type")->doc.find("w = warmup_steps, at least 1"), std::string::npos);
}

}  // namespace
}  // namespace perceiver
