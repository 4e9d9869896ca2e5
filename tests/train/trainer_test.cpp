// Whole training runs.
#include "train/trainer.h"

#include <gmock/gmock.h>

#include <atomic>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "config/load.h"
#include "model/model_file.h"
#include "report/run_record.h"
#include "tests/support/tiny_run.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(Trainer, LearnsAndLeavesACompleteRunFolder) {
  const TempFolder folder;
  Config config = tiny_config(60);
  config.model.residual_dropout = 0;
  config.train.log_every = 20;
  config.train.batch = 16;
  Recorder recorder;
  const TrainResult result = train(config, folder.path("run"), false, &recorder);
  EXPECT_EQ(result.status, TrainStatus::finished);
  EXPECT_EQ(result.step, 60);
  EXPECT_EQ(result.checkpoint, checkpoint_path(folder.path("run"), 60));
  ASSERT_EQ(recorder.logs.size(), 3u);
  EXPECT_LT(recorder.logs[2].loss, recorder.logs[0].loss - 0.1);
  EXPECT_EQ(recorder.logs[2].steps, 60);
  EXPECT_GT(recorder.logs[0].targets_per_second, 0);
  EXPECT_NEAR(recorder.logs[0].inputs_per_second / recorder.logs[0].targets_per_second, 15.0 / 8, 0.2);
  EXPECT_NEAR(recorder.logs[0].bits(), recorder.logs[0].loss / std::log(2), 1e-12);

  EXPECT_EQ(load_config(folder.path("run/config.yaml")).train.log_every, 20);
  EXPECT_EQ(timeless_metrics(folder.path("run")).size(), 3u);
  const LoadedModel loaded =
      load_model(find_model_file(folder.path("run")), DeviceContext::cpu(1), DType::f32);
  EXPECT_EQ(loaded.metadata.step, 60);
  EXPECT_EQ(loaded.metadata.tokenizer, open_dataset(config.data)->tokenizer());
  EXPECT_EQ(config_from_json(loaded.metadata.run, "metadata").train.batch, 16);
  const CheckpointState state = read_checkpoint_state(result.checkpoint);
  EXPECT_EQ(state.step, 60);
  EXPECT_EQ(state.updates, 60);
  EXPECT_GT(state.elapsed, 0);
  EXPECT_GT(state.loss.value(), 0);
}

TEST(Trainer, GivesTheSameBitsRunToRun) {
  const TempFolder folder;
  Config config = tiny_config(3);
  config.threads = 2;
  config.train.micro_batches = 2;
  train(config, folder.path("a"));
  train(config, folder.path("b"));
  EXPECT_EQ(checkpoint_bytes(folder.path("a"), 3), checkpoint_bytes(folder.path("b"), 3));
  EXPECT_EQ(timeless_metrics(folder.path("a")), timeless_metrics(folder.path("b")));
}

TEST(Trainer, AllocatesNothingAfterTheFirstSteps) {
  const TempFolder folder;
  Config config = tiny_config(20);
  config.train.ema_decay = 0.9;
  config.train.micro_batches = 2;
  struct Watcher : TrainObserver {
    void on_log(const LogEntry&) override {
      allocations.push_back(trainer->model().context().statistics().system_allocations);
    }
    Trainer* trainer = nullptr;
    std::vector<int64_t> allocations;
  } watcher;
  Trainer trainer(config, run_options(folder.path("run"), false, &watcher));
  watcher.trainer = &trainer;
  trainer.run();
  ASSERT_EQ(watcher.allocations.size(), 20u);
  EXPECT_GT(watcher.allocations[2], 0);
  EXPECT_EQ(watcher.allocations[2], watcher.allocations[19]);
}

TEST(Trainer, StopsWhenAskedAndSaves) {
  const TempFolder folder;
  std::atomic<bool> stop = false;
  struct Stopper : Recorder {
    void on_log(const LogEntry& entry) override { *stop = entry.step == 3; }
    std::atomic<bool>* stop = nullptr;
  } stopper;
  stopper.stop = &stop;
  TrainerOptions options = run_options(folder.path("run"), false, &stopper);
  options.stop = &stop;
  const TrainResult result = Trainer(tiny_config(), options).run();
  EXPECT_EQ(result.status, TrainStatus::interrupted);
  EXPECT_EQ(result.step, 3);
  EXPECT_THAT(stopper.checkpoints, ElementsAre(3));
  EXPECT_EQ(verify_checkpoint(result.checkpoint).step, 3);
}

TEST(Trainer, StopsWhenItsTimeIsUp) {
  const TempFolder folder;
  Config config = tiny_config(1'000'000);
  config.train.max_minutes = 0.05 / 60;
  const TrainResult result = train(config, folder.path("run"));
  EXPECT_EQ(result.status, TrainStatus::out_of_time);
  EXPECT_LT(result.step, 1'000'000);
  EXPECT_EQ(verify_checkpoint(result.checkpoint).step, result.step);
}

/// A run whose schedule ends after so many seconds; its train.steps would take far longer, or be over at
/// once.
Config clocked_config(double seconds, int64_t steps = 1'000'000) {
  Config config = tiny_config(steps);
  config.optimizer.learning_rate = 1e-3;
  config.schedule.type = ScheduleType::linear;
  config.schedule.decay_steps = config.schedule.warmup_steps = 0;
  config.schedule.until = seconds;
  config.train.log_every = 1;
  return config;
}

TEST(Trainer, AScheduleByTheClockUsesItsTimeAndEnds) {
  for (const int64_t steps : {int64_t{1}, int64_t{1'000'000}}) {
    const TempFolder folder;
    Recorder recorder;
    const TrainResult result =
        Trainer(clocked_config(0.4, steps), run_options(folder.path("run"), false, &recorder)).run();
    EXPECT_EQ(result.status, TrainStatus::finished);
    const CheckpointState state = verify_checkpoint(result.checkpoint);
    EXPECT_EQ(state.step, result.step);
    EXPECT_GE(state.elapsed, 0.4);
    ASSERT_GT(recorder.logs.size(), 2u);
    for (size_t i = 1; i < recorder.logs.size(); ++i) {
      EXPECT_EQ(recorder.logs[i].steps, 0);
      EXPECT_LT(recorder.logs[i].learning_rate, recorder.logs[i - 1].learning_rate);
      EXPECT_LE(recorder.logs[i].remaining, recorder.logs[i - 1].remaining);
    }
  }
}

TEST(Trainer, AResumedScheduleByTheClockGoesOnWithTheTimeLeft) {
  const TempFolder folder;
  Recorder first, second, third;
  Config part = clocked_config(1000);
  part.train.max_minutes = 0.2 / 60;
  const TrainResult stopped = Trainer(part, run_options(folder.path("run"), false, &first)).run();
  EXPECT_EQ(stopped.status, TrainStatus::out_of_time);
  const double elapsed = verify_checkpoint(stopped.checkpoint).elapsed;
  EXPECT_EQ(read_run(folder.path("run")).state, RunState::stopped);
  const Config rest = clocked_config(2 * elapsed);
  const TrainResult result = Trainer(rest, run_options(folder.path("run"), true, &second)).run();
  EXPECT_EQ(result.status, TrainStatus::finished);
  EXPECT_GT(result.step, stopped.step);
  EXPECT_LE(second.logs.front().learning_rate, 0.5e-3);  // half of the time was over
  // There is no time left for another step.
  EXPECT_EQ(Trainer(rest, run_options(folder.path("run"), true, &third)).run().step, result.step);
}

TEST(Trainer, NoStepsSaveTheInitialModel) {
  const TempFolder folder;
  const TrainResult result = train(tiny_config(0), folder.path("run"));
  EXPECT_EQ(result.status, TrainStatus::finished);
  EXPECT_EQ(verify_checkpoint(result.checkpoint).step, 0);
}

TEST(Trainer, KeepsTheNewestCheckpoints) {
  const TempFolder folder;
  Config config = tiny_config(9);
  config.checkpoint.every = 2;
  config.checkpoint.keep = 2;
  Recorder recorder;
  train(config, folder.path("run"), false, &recorder);
  EXPECT_THAT(recorder.checkpoints, ElementsAre(2, 4, 6, 8, 9));
  EXPECT_THAT(checkpoint_steps(folder.path("run")), ElementsAre(8, 9));
  EXPECT_FALSE(fs::exists(folder.path("run/checkpoints/best")));
}

TEST(Trainer, SavesByTheClockAndStaysTheSameRun) {
  const TempFolder folder;
  Config config = tiny_config(200);
  config.train.log_every = 7;
  train(config, folder.path("whole"));
  config.checkpoint.minutes = 1e-9;  // as often as the limit on its share of the time allows
  config.checkpoint.keep = 2;
  Recorder recorder;
  train(config, folder.path("run"), false, &recorder);
  ASSERT_GE(recorder.checkpoints.size(), 2u);
  EXPECT_EQ(recorder.checkpoints.front(), 1);
  EXPECT_LT(recorder.checkpoints.size(), 100u);
  EXPECT_EQ(checkpoint_steps(folder.path("run")).size(), 2u);
  const std::vector<std::string> whole = checkpoint_bytes(folder.path("whole"), 200);
  const std::vector<std::string> saved = checkpoint_bytes(folder.path("run"), 200);
  EXPECT_EQ(whole[1], saved[1]);  // the model file also holds the configuration, which differs
  EXPECT_EQ(timeless_metrics(folder.path("run")), timeless_metrics(folder.path("whole")));
}

TEST(Trainer, SavesByTheClockOnlyWhereAsked) {
  const TempFolder folder;
  Config config = tiny_config(20);
  config.checkpoint.minutes = 0;
  Recorder recorder;
  train(config, folder.path("run"), false, &recorder);
  EXPECT_THAT(recorder.checkpoints, ElementsAre(20));
}

/// A run validated every step, with the given scores.
Recorder validated_run(Config config, const std::string& folder, std::vector<double> scores) {
  Recorder recorder;
  config.train.steps = static_cast<int64_t>(scores.size());
  config.eval.every = 1;
  TrainerOptions options = run_options(folder, false, &recorder);
  size_t next = 0;
  options.validate = [&](const PerceiverAR&, const Dataset&, const LearnerRanks&) {
    return ValidationScore{scores.at(next++), 1.5, "byte"};
  };
  Trainer(config, options).run();
  return recorder;
}

TEST(Trainer, KeepsTheBestCheckpointByValidationLoss) {
  const TempFolder folder;
  Config config = tiny_config();
  config.checkpoint.every = 2;
  config.checkpoint.keep = 1;
  const Recorder recorder = validated_run(config, folder.path("run"), {5, 4, 2, 3, NAN, 2.5, 3});
  EXPECT_THAT(recorder.checkpoints, ElementsAre(1, 2, 3, 4, 6, 7));
  EXPECT_THAT(checkpoint_steps(folder.path("run")), ElementsAre(3, 7));
  EXPECT_EQ(fs::read_symlink(folder.path("run/checkpoints/best")), "step-000000003");
  EXPECT_EQ(find_model_file(folder.path("run")),
            fs::path(folder.path("run/checkpoints/best")) / model_file_name);
  ASSERT_EQ(recorder.evals.size(), 7u);
  EXPECT_TRUE(recorder.evals[2].is_best);
  EXPECT_FALSE(recorder.evals[4].is_best);
  const CheckpointState state = read_checkpoint_state(checkpoint_path(folder.path("run"), 7));
  EXPECT_EQ(state.best.value().step, 3);
  EXPECT_EQ(state.best.value().loss, 2);
  EXPECT_EQ(state.validation_loss.value(), 3);
}

TEST(Trainer, KeepsNoBestWhereNotAsked) {
  const TempFolder folder;
  Config config = tiny_config();
  config.checkpoint.keep_best = false;
  config.checkpoint.every = 3;
  config.checkpoint.keep = 1;
  const Recorder recorder = validated_run(config, folder.path("run"), {5, 4, 2, 3});
  EXPECT_THAT(recorder.checkpoints, ElementsAre(3, 4));
  EXPECT_THAT(checkpoint_steps(folder.path("run")), ElementsAre(4));
  EXPECT_FALSE(fs::exists(folder.path("run/checkpoints/best")));
}

TEST(Trainer, ValidatesTheMovingAverage) {
  const TempFolder folder;
  Config config = tiny_config(2);
  config.train.ema_decay = 0.5;
  std::vector<float> validated;
  TrainerOptions options = run_options(folder.path("run"));
  options.validate = [&](const PerceiverAR& model, const Dataset&, const LearnerRanks&) {
    validated = model.parameters().values().to_host<float>();
    return ValidationScore{1, {}, ""};
  };
  Trainer trainer(config, options);
  const TrainResult result = trainer.run();
  EXPECT_EQ(validated, trainer.learner().collect_average().to_host<float>());
  EXPECT_NE(validated, trainer.model().parameters().values().to_host<float>());
  const LoadedModel loaded =
      load_model(result.checkpoint / average_file_name, DeviceContext::cpu(1), DType::f32);
  EXPECT_EQ(loaded.model->parameters().values().to_host<float>(), validated);
}

TEST(Trainer, AFailingValidationCostsNoSteps) {
  const TempFolder folder;
  TrainerOptions options = run_options(folder.path("run"));
  options.validate = [](const PerceiverAR&, const Dataset&, const LearnerRanks&) -> ValidationScore {
    throw_failure("no memory for it");
  };
  EXPECT_EQ(error_of(ErrorKind::failure, [&] { Trainer(tiny_config(2), options).run(); }),
            "no memory for it");
  EXPECT_EQ(verify_checkpoint(checkpoint_path(folder.path("run"), 2)).step, 2);
}

TEST(Trainer, DataWithoutValidationAreNotValidated) {
  const TempFolder folder;
  Config config = tiny_config(2);
  config.data.type = "text";
  config.data.train = {folder.write("text.txt", std::string(500, 'a'))};
  config.data.validation_fraction = 0;
  TrainerOptions options = run_options(folder.path("run"));
  options.validate = [](const PerceiverAR&, const Dataset&, const LearnerRanks&) -> ValidationScore {
    throw_failure("called without a validation split");
  };
  EXPECT_EQ(Trainer(config, options).run().status, TrainStatus::finished);
}

/// Puts a NaN into the weights after step `from`, and takes it out again after step `to`.
class Spoiler : public Recorder {
 public:
  Spoiler(int64_t from, int64_t to) : from_(from), to_(to) {}
  void on_log(const LogEntry& entry) override {
    Recorder::on_log(entry);
    // In the row of SOS, which starts every example.
    float& weight = trainer->model().parameters().values().as<float>()[2 * 16];
    if (entry.step == from_) good_ = std::exchange(weight, std::numeric_limits<float>::quiet_NaN());
    if (entry.step == to_) weight = good_;
  }
  Trainer* trainer = nullptr;

 private:
  int64_t from_, to_;
  float good_ = 0;
};

TEST(Trainer, SkipsStepsThatAreNotFinite) {
  const TempFolder folder;
  Spoiler spoiler(2, 4);
  Config config = tiny_config(6);
  config.checkpoint.every = 1;
  config.checkpoint.keep = 10;
  Trainer trainer(config, run_options(folder.path("run"), false, &spoiler));
  spoiler.trainer = &trainer;
  EXPECT_EQ(trainer.run().status, TrainStatus::finished);
  EXPECT_EQ(trainer.state().skipped, 2);
  EXPECT_EQ(trainer.learner().updates(), 4);
  EXPECT_TRUE(spoiler.told("step 3: loss nan"));
  EXPECT_TRUE(spoiler.told("forward of embedding in input"));
  EXPECT_TRUE(spoiler.told("2 in a row, 2 in all"));
  // After step 2 the weights were spoiled before the checkpoint was due; steps 3 and 4 were skipped.
  EXPECT_THAT(spoiler.checkpoints, ElementsAre(1, 5, 6));
  EXPECT_TRUE(spoiler.told("no checkpoint at step 2"));
  EXPECT_EQ(spoiler.warnings, spoiler.messages);
  EXPECT_TRUE(std::isnan(spoiler.logs[2].loss));
  EXPECT_EQ(spoiler.logs[5].skipped, 2);
  EXPECT_TRUE(timeless_metrics(folder.path("run"))[2].at("loss").is_null());
}

TEST(Trainer, StopsAfterTooManyStepsThatAreNotFinite) {
  const TempFolder folder;
  Spoiler spoiler(5, -1);
  Config config = tiny_config(100);
  config.checkpoint.every = 2;
  config.train.max_nonfinite_steps = 3;
  Trainer trainer(config, run_options(folder.path("run"), false, &spoiler));
  spoiler.trainer = &trainer;
  const std::string message = error_of(ErrorKind::failure, [&] { trainer.run(); });
  EXPECT_THAT(message, HasSubstr("training stopped at step 8: 3 steps in a row"));
  EXPECT_THAT(message, HasSubstr("last good checkpoint: " + checkpoint_path(folder.path("run"), 4)));
  EXPECT_THAT(checkpoint_steps(folder.path("run")), ElementsAre(2, 4));
  EXPECT_EQ(verify_checkpoint(checkpoint_path(folder.path("run"), 4)).step, 4);
}

// The weights that step 2 blew up are finite, so they are saved; but what they replace stays until a step has
// shown that they can be trained on.
TEST(Trainer, AnUntriedCheckpointReplacesNone) {
  const TempFolder folder;
  Config config = tiny_config(100);
  config.model.residual_dropout = 0;
  config.schedule = {};
  config.schedule.type = ScheduleType::steps;
  config.schedule.step_boundaries = {1};
  config.schedule.step_factors = {1e32};
  config.checkpoint.every = 1;
  config.checkpoint.keep = 1;
  config.train.max_nonfinite_steps = 2;
  const std::string message = error_of(ErrorKind::failure, [&] { train(config, folder.path("run")); });
  EXPECT_THAT(message, HasSubstr("last good checkpoint: " + checkpoint_path(folder.path("run"), 1)));
  EXPECT_THAT(checkpoint_steps(folder.path("run")), ElementsAre(1, 2));
}

/// Scales the embeddings so that the loss overflows during the steps after `from` up to `to`: finite weights,
/// infinite losses.
class Inflater : public Recorder {
 public:
  Inflater(int64_t from, int64_t to) : from_(from), to_(to) {}
  void on_log(const LogEntry& entry) override {
    Recorder::on_log(entry);
    if (entry.step == from_) scale(1e30f);
    if (entry.step == to_) scale(1e-30f);
  }
  Trainer* trainer = nullptr;

 private:
  void scale(float factor) const {
    const Tensor& values = trainer->model().parameters().values();
    for (int64_t i = 0; i < values.elements(); ++i) values.as<float>()[i] *= factor;
  }
  int64_t from_, to_;
};

TEST(Trainer, SavesAtItsEndThoughTheLastStepWasSkipped) {
  const TempFolder folder;
  Inflater inflater(2, 3);
  Trainer trainer(tiny_config(3), run_options(folder.path("run"), false, &inflater));
  inflater.trainer = &trainer;
  const TrainResult result = trainer.run();
  EXPECT_EQ(result.status, TrainStatus::finished);
  EXPECT_EQ(trainer.state().skipped, 1);
  ASSERT_EQ(result.checkpoint, checkpoint_path(folder.path("run"), 3));
  const CheckpointState state = verify_checkpoint(result.checkpoint);
  EXPECT_EQ(state.updates, 2);
  EXPECT_EQ(state.rejected, 1);
}

TEST(Trainer, ACheckpointDueAtASkippedStepWaitsForTheNext) {
  const TempFolder folder;
  Inflater inflater(3, 5);
  Config config = tiny_config(8);
  config.checkpoint.every = 4;
  Trainer trainer(config, run_options(folder.path("run"), false, &inflater));
  inflater.trainer = &trainer;
  trainer.run();
  EXPECT_EQ(trainer.state().skipped, 2);
  EXPECT_THAT(inflater.checkpoints, ElementsAre(6, 8));
}

TEST(Trainer, AnUselessLastCheckpointReplacesNone) {
  const TempFolder folder;
  Inflater inflater(4, -1);
  Config config = tiny_config(6);
  config.checkpoint.every = 2;
  config.checkpoint.keep = 1;
  {
    Trainer trainer(config, run_options(folder.path("run"), false, &inflater));
    inflater.trainer = &trainer;
    EXPECT_EQ(trainer.run().checkpoint, checkpoint_path(folder.path("run"), 6));
  }
  // Step 4 was finite and confirmed the checkpoint of step 2; that of step 4 holds the inflated weights.
  EXPECT_THAT(checkpoint_steps(folder.path("run")), ElementsAre(2, 4, 6));

  // The count of skipped steps goes on where it was, and the advice does not name what was saved meanwhile.
  config.train.steps = 20;
  config.train.max_nonfinite_steps = 5;
  const std::string message = error_of(ErrorKind::failure, [&] { train(config, folder.path("run"), true); });
  EXPECT_THAT(message, HasSubstr("training stopped at step 9: 5 steps in a row"));
  EXPECT_THAT(message, HasSubstr("last good checkpoint: " + checkpoint_path(folder.path("run"), 4)));
  EXPECT_THAT(checkpoint_steps(folder.path("run")), ElementsAre(2, 4, 6));
}

TEST(Trainer, WeightsThatAreNotFiniteAtTheEndAreAnError) {
  const TempFolder folder;
  Spoiler spoiler(3, -1);
  Config config = tiny_config(4);
  config.checkpoint.every = 2;
  Trainer trainer(config, run_options(folder.path("run"), false, &spoiler));
  spoiler.trainer = &trainer;
  const std::string message = error_of(ErrorKind::failure, [&] { trainer.run(); });
  EXPECT_THAT(message, HasSubstr("no checkpoint at step 4"));
  EXPECT_THAT(message, HasSubstr("last good checkpoint: " + checkpoint_path(folder.path("run"), 2)));
  EXPECT_THAT(checkpoint_steps(folder.path("run")), ElementsAre(2));
}

TEST(Trainer, ATimeLimitLogsTheRestAndValidates) {
  const TempFolder folder;
  Config config = tiny_config(1'000'000);
  config.train.max_minutes = 0.2 / 60;
  config.train.log_every = 1'000'000;
  Recorder recorder;
  TrainerOptions options = run_options(folder.path("run"), false, &recorder);
  options.validate = [](const PerceiverAR&, const Dataset&, const LearnerRanks&) {
    return ValidationScore{1, {}, ""};
  };
  const TrainResult result = Trainer(config, options).run();
  EXPECT_EQ(result.status, TrainStatus::out_of_time);
  ASSERT_EQ(recorder.logs.size(), 1u);
  EXPECT_TRUE(recorder.logs[0].partial);
  EXPECT_EQ(recorder.logs[0].step, result.step);
  ASSERT_EQ(recorder.evals.size(), 1u);
  EXPECT_EQ(recorder.evals[0].step, result.step);
  const CheckpointState state = verify_checkpoint(result.checkpoint);
  EXPECT_EQ(state.best.value().step, result.step);
  EXPECT_GT(state.interval.targets, 0);
  EXPECT_EQ(fs::read_symlink(folder.path("run/checkpoints/best")), result.checkpoint.filename());
}

/// A validation during which the run is asked to stop, as the `at`th one begins.
struct Interruption {
  std::optional<ValidationScore> operator()(const PerceiverAR&, const Dataset&, const LearnerRanks&) {
    if (++calls == at) stop = true;
    if (stop) return std::nullopt;
    return ValidationScore{1.0 / calls, {}, ""};
  }
  int at = 0, calls = 0;
  std::atomic<bool> stop = false;
};

TrainerOptions interrupted_options(const std::string& folder, bool resume, Interruption& interruption,
                                   TrainObserver* observer) {
  TrainerOptions options = run_options(folder, resume, observer);
  options.validate = std::ref(interruption);
  options.stop = &interruption.stop;
  return options;
}

TEST(Trainer, AStopDuringAValidationRecordsNoneOfIt) {
  for (const int64_t at : {2, 4}) {  // in the middle, and at the last step
    const TempFolder folder;
    Config config = tiny_config(8);
    config.eval.every = 2;
    Recorder recorder;
    Interruption interruption;
    interruption.at = static_cast<int>(at);
    const TrainResult result =
        Trainer(config, interrupted_options(folder.path("run"), false, interruption, &recorder)).run();
    EXPECT_EQ(result.status, TrainStatus::interrupted);
    EXPECT_EQ(result.step, 2 * at);
    EXPECT_EQ(interruption.calls, at);
    EXPECT_EQ(recorder.evals.size(), static_cast<size_t>(at - 1));
    const CheckpointState state = verify_checkpoint(result.checkpoint);
    EXPECT_EQ(state.step, 2 * at);
    EXPECT_EQ(state.validated, 2 * at - 2);

    // The validation that was left is made up.
    Recorder second;
    Interruption none;
    none.calls = static_cast<int>(at);
    EXPECT_EQ(Trainer(config, interrupted_options(folder.path("run"), true, none, &second)).run().status,
              TrainStatus::finished);
    ASSERT_EQ(second.evals.size(), static_cast<size_t>(5 - at));
    EXPECT_EQ(second.evals[0].step, 2 * at);
    EXPECT_EQ(verify_checkpoint(checkpoint_path(folder.path("run"), 8)).validated, 8);
  }
}

TEST(Trainer, AStopLogsTheRestOfItsInterval) {
  const TempFolder folder;
  Config config = tiny_config(8);
  config.train.log_every = 3;
  config.checkpoint.every = 4;
  struct Stopper : Recorder {
    void on_checkpoint(int64_t, const fs::path&) override { stop = true; }
    std::atomic<bool> stop = false;
  } stopper;
  TrainerOptions options = run_options(folder.path("run"), false, &stopper);
  options.stop = &stopper.stop;
  EXPECT_EQ(Trainer(config, options).run().status, TrainStatus::interrupted);
  ASSERT_EQ(stopper.logs.size(), 2u);
  EXPECT_FALSE(stopper.logs[0].partial);
  EXPECT_TRUE(stopper.logs[1].partial);
  EXPECT_EQ(stopper.logs[1].step, 4);
  EXPECT_EQ(timeless_metrics(folder.path("run"))[1].at("partial"), true);
}

TEST(Trainer, DoesNotWriteOverARun) {
  const TempFolder folder;
  train(tiny_config(1), folder.path("run"));
  const std::string message = error_of(ErrorKind::user, [&] { train(tiny_config(1), folder.path("run")); });
  EXPECT_THAT(message, HasSubstr("already holds a run of 1 step"));
  EXPECT_THAT(message, HasSubstr("--resume"));
  EXPECT_THAT(message, HasSubstr("another folder"));
}

TEST(Trainer, ARunWithoutCheckpointsIsRefusedOrStartedOver) {
  const TempFolder folder;
  train(tiny_config(3), folder.path("whole"));
  train(tiny_config(3), folder.path("run"));
  fs::remove_all(folder.path("run/checkpoints"));
  const std::string metrics = file_bytes(folder.path("run/metrics.jsonl"));
  const std::string message = error_of(ErrorKind::user, [&] { train(tiny_config(3), folder.path("run")); });
  EXPECT_THAT(message, HasSubstr("saved no checkpoint: start it over with --resume, delete the folder"));
  EXPECT_EQ(file_bytes(folder.path("run/metrics.jsonl")), metrics);

  Recorder recorder;
  EXPECT_EQ(train(tiny_config(3), folder.path("run"), true, &recorder).step, 3);
  EXPECT_TRUE(recorder.told("holds no checkpoint yet; the run starts at step 0"));
  EXPECT_EQ(timeless_metrics(folder.path("run")), timeless_metrics(folder.path("whole")));
  EXPECT_EQ(checkpoint_bytes(folder.path("run"), 3), checkpoint_bytes(folder.path("whole"), 3));
}

TEST(Trainer, OneProcessTrainsInAFolder) {
  const TempFolder folder;
  const Trainer first(tiny_config(1), run_options(folder.path("run")));
  EXPECT_THAT(error_of(ErrorKind::user, [&] { train(tiny_config(1), folder.path("run")); }),
              HasSubstr("another run is training"));
}

TEST(Trainer, AWrongConfigurationLeavesNoFolder) {
  const TempFolder folder;
  Config config = tiny_config(1);
  config.data.copy_length = 40;
  EXPECT_THAT(error_of(ErrorKind::user, [&] { train(config, folder.path("run")); }),
              HasSubstr("context_length"));
  config = tiny_config(1);
  config.device = "cpu";
  config.train.precision = Precision::bfloat16;
  EXPECT_THAT(error_of(ErrorKind::user, [&] { train(config, folder.path("run")); }),
              HasSubstr("needs a GPU"));
  EXPECT_FALSE(fs::exists(folder.path("run")));
}

}  // namespace
}  // namespace perceiver
