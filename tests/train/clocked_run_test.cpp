// Runs whose schedule follows the clock (schedule.until), by a clock that the test moves.
#include <gmock/gmock.h>

#include <array>
#include <atomic>
#include <vector>

#include "report/run_record.h"
#include "tests/support/thread_world.h"
#include "tests/support/tiny_run.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;

/// A second passes with every entry of the log.
struct TimedRecorder : Recorder {
  void on_log(const LogEntry& entry) override {
    Recorder::on_log(entry);
    now = now + 1;
    if (entry.step == stop_at) stop = true;
  }
  void on_sample(const SampleEntry& entry) override { samples.push_back(entry.step); }
  std::vector<double> rates() const {
    std::vector<double> rates;
    for (const LogEntry& each : logs) rates.push_back(each.learning_rate);
    return rates;
  }

  std::atomic<double> now = 0;
  int64_t stop_at = -1;
  std::atomic<bool> stop = false;
  std::vector<int64_t> samples;
};

/// Ten seconds, in which the rate falls from 1 to 0.
Config ten_seconds(int64_t steps = 1'000'000) {
  Config config = tiny_config(steps);
  config.optimizer.learning_rate = 1;
  config.optimizer.clip_norm = 1e-3;
  config.optimizer.type = OptimizerType::sgd;
  config.schedule = {};
  config.schedule.type = ScheduleType::linear;
  config.schedule.until = 10;
  config.train.ema_decay = 0.9;
  return config;
}

TrainerOptions clocked(const std::string& folder, bool resume, TimedRecorder& recorder,
                       double seconds_of_validation = 0) {
  TrainerOptions options = run_options(folder, resume, &recorder);
  options.stop = &recorder.stop;
  options.clock = [&recorder] { return recorder.now.load(); };
  options.validate = [&recorder, seconds_of_validation](const PerceiverAR&, const Dataset&,
                                                        const LearnerRanks&) {
    recorder.now = recorder.now + seconds_of_validation;
    return ValidationScore{2, {}, ""};
  };
  return options;
}

/// 1, 0.9, 0.8 ...
std::vector<double> tenths(const std::vector<int>& tenths) {
  std::vector<double> rates;
  for (const int each : tenths) rates.push_back(1 - (10 - each) / 10.0);
  return rates;
}

void expect_rates(const TimedRecorder& recorder, const std::vector<int>& expected) {
  EXPECT_THAT(recorder.rates(), testing::Pointwise(testing::DoubleNear(1e-12), tenths(expected)));
}

TEST(ClockedRun, RatesAreThoseOfTheTimeUsedWhateverTheSteps) {
  for (const int64_t steps : {0, 3, 1'000'000}) {
    const TempFolder folder;
    TimedRecorder recorder;
    const TrainResult result =
        Trainer(ten_seconds(steps), clocked(folder.path("run"), false, recorder)).run();
    EXPECT_EQ(result.status, TrainStatus::finished);
    EXPECT_EQ(result.step, 10);
    expect_rates(recorder, {10, 9, 8, 7, 6, 5, 4, 3, 2, 1});
    EXPECT_EQ(recorder.logs[3].remaining, 7);
    EXPECT_EQ(recorder.logs[3].steps, 0);
    EXPECT_EQ(result.summary.elapsed, 10);
  }
}

TEST(ClockedRun, ValidationsUseTime) {
  const TempFolder folder;
  TimedRecorder recorder;
  Config config = ten_seconds();
  config.eval.every = 2;
  const TrainResult result = Trainer(config, clocked(folder.path("run"), false, recorder, 3)).run();
  expect_rates(recorder, {10, 9, 5, 4});
  EXPECT_EQ(result.step, 4);
  ASSERT_EQ(recorder.evals.size(), 2u);  // that of the last step is no second one
}

TEST(ClockedRun, WarmsUpToWhatTheClockSays) {
  const TempFolder folder;
  TimedRecorder recorder;
  Config config = ten_seconds();
  config.schedule.warmup_steps = 4;
  Trainer(config, clocked(folder.path("run"), false, recorder)).run();
  const std::vector<double> rates = recorder.rates();
  ASSERT_EQ(rates.size(), 10u);
  EXPECT_EQ(rates[0], 0);
  EXPECT_NEAR(rates[2], 0.5 * 0.8, 1e-12);
  EXPECT_NEAR(rates[4], 0.6, 1e-12);
}

// The clock moves whenever it is read, so the run ends at a step at which nothing is due.
TEST(ClockedRun, EndsAsAfterItsLastStep) {
  const TempFolder folder;
  TimedRecorder recorder;
  Config config = ten_seconds();
  config.data.type = "text";
  config.data.train = {folder.write("text.txt", std::string(300, 'a') + std::string(300, 'b'))};
  config.train.log_every = config.train.sample_every = 1000;
  config.train.sample_tokens = 4;
  TrainerOptions options = clocked(folder.path("run"), false, recorder);
  double now = 0;
  options.clock = [&now] { return now += 0.25; };
  const TrainResult result = Trainer(config, options).run();
  EXPECT_EQ(result.status, TrainStatus::finished);
  EXPECT_GT(result.step, 3);
  EXPECT_LT(result.step, 40);
  ASSERT_EQ(recorder.logs.size(), 1u);
  EXPECT_EQ(recorder.logs[0].step, result.step);
  EXPECT_FALSE(recorder.logs[0].partial);
  ASSERT_EQ(recorder.evals.size(), 1u);
  EXPECT_EQ(recorder.evals[0].step, result.step);
  EXPECT_THAT(recorder.checkpoints, ElementsAre(result.step));
  EXPECT_THAT(recorder.samples, ElementsAre(result.step));
  EXPECT_TRUE(fs::exists(result.checkpoint / average_file_name));
  EXPECT_GE(verify_checkpoint(result.checkpoint).elapsed, 10);
  EXPECT_EQ(read_run(folder.path("run")).state, RunState::finished);

  TimedRecorder again;  // there is nothing left to do
  TrainerOptions resumed = clocked(folder.path("run"), true, again);
  EXPECT_EQ(Trainer(config, resumed).run().step, result.step);
  EXPECT_THAT(again.logs, IsEmpty());
  EXPECT_THAT(again.evals, IsEmpty());
  EXPECT_THAT(again.samples, IsEmpty());
}

// Same clock, same bits: nothing else of a run depends on the time.
TEST(ClockedRun, AResumedOneGoesOnWithTheTimeLeft) {
  const TempFolder folder;
  TimedRecorder whole, first, second;
  const std::string a = folder.path("whole"), b = folder.path("parts");
  Trainer(ten_seconds(), clocked(a, false, whole)).run();
  first.stop_at = 4;
  const TrainResult stopped = Trainer(ten_seconds(), clocked(b, false, first)).run();
  EXPECT_EQ(stopped.status, TrainStatus::interrupted);
  EXPECT_EQ(verify_checkpoint(stopped.checkpoint).elapsed, 4);
  EXPECT_EQ(Trainer(ten_seconds(), clocked(b, true, second)).run().step, 10);
  expect_rates(second, {6, 5, 4, 3, 2, 1});
  EXPECT_EQ(checkpoint_bytes(a, 10), checkpoint_bytes(b, 10));
  EXPECT_EQ(timeless_metrics(a), timeless_metrics(b));
}

TEST(ClockedRun, AFinishedOneGoesOnIfItGetsMoreTime) {
  const TempFolder folder;
  TimedRecorder first, second;
  Trainer(ten_seconds(), clocked(folder.path("run"), false, first)).run();
  Config longer = ten_seconds();
  longer.schedule.until = 20;
  EXPECT_EQ(Trainer(longer, clocked(folder.path("run"), true, second)).run().step, 20);
  EXPECT_NEAR(second.logs.front().learning_rate, 0.5, 1e-12);
}

// The others' clocks are wrong, and each step is told what rank 0 read when it started the one before.
TEST(ClockedRun, RanksFollowTheClockOfRankZero) {
  const TempFolder folder;
  TimedRecorder recorder;
  std::array<std::vector<float>, 3> weights;
  run_ranks(3, [&](ThreadWorld& world) {
    TrainerOptions options = clocked(folder.path("run"), false, recorder);
    options.world = &world;
    if (!world.leads()) options.clock = [&world] { return 100.0 * world.rank(); };
    Trainer trainer(ten_seconds(), options);
    EXPECT_EQ(trainer.run().status, TrainStatus::finished);
    EXPECT_EQ(trainer.state().step, 11);
    weights[static_cast<size_t>(world.rank())] = trainer.model().parameters().values().to_host<float>();
  });
  expect_rates(recorder, {10, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1});
  EXPECT_EQ(weights[0], weights[1]);
  EXPECT_EQ(weights[0], weights[2]);
}

}  // namespace
}  // namespace perceiver
