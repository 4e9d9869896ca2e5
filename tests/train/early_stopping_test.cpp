#include "train/early_stopping.h"

#include <gmock/gmock.h>

#include <cmath>

#include "tests/support/tiny_run.h"

namespace perceiver {
namespace {

using testing::HasSubstr;

TEST(EarlyStopping, CountsValidationsWithoutABetterLoss) {
  Patience patience;
  std::vector<int64_t> counts;
  for (const double loss : {3.0, 2.0, 2.0, 2.5, std::nan(""), 1.9, 1.95}) {
    patience.add(loss, 0);
    counts.push_back(patience.validations);
  }
  EXPECT_THAT(counts, testing::ElementsAre(0, 0, 1, 2, 3, 0, 1));
  EXPECT_EQ(patience.reference, 1.9);
}

TEST(EarlyStopping, ALittleBetterIsNotBetter) {
  Patience patience;
  patience.add(2, 0.1);
  patience.add(1.95, 0.1);
  patience.add(1.91, 0.1);
  EXPECT_EQ(patience.validations, 2);
  EXPECT_EQ(patience.reference, 2);  // small gains add up
  patience.add(1.89, 0.1);
  EXPECT_EQ(patience.validations, 0);
}

/// A run validated every step with these losses, by step.
class Validated {
 public:
  explicit Validated(std::vector<double> losses) : losses_(std::move(losses)) {}

  TrainResult run(const Config& config, const std::string& folder, bool resume = false) {
    TrainerOptions options = run_options(folder, resume, &recorder);
    options.validate = [this](const PerceiverAR&, const Dataset&, const LearnerRanks&) {
      return ValidationScore{losses_.at(next_++), {}, ""};
    };
    Trainer trainer(config, options);
    next_ = static_cast<size_t>(trainer.state().step);
    return trainer.run();
  }
  Recorder recorder;

 private:
  std::vector<double> losses_;
  size_t next_ = 0;
};

Config patient_config(int64_t patience) {
  Config config = tiny_config(8);
  config.eval.every = 1;
  config.train.early_stopping = patience;
  return config;
}

const std::vector<double> kLosses{5, 4, 3, 3.5, 3.2, 3.1, 2, 1};

TEST(EarlyStopping, EndsARunLikeItsLastStep) {
  const TempFolder folder;
  Validated validated(kLosses);
  const TrainResult result = validated.run(patient_config(3), folder.path("run"));
  EXPECT_EQ(result.status, TrainStatus::stopped_early);
  EXPECT_EQ(result.step, 6);
  EXPECT_EQ(result.checkpoint, checkpoint_path(folder.path("run"), 6));
  EXPECT_EQ(CheckpointStore(folder.path("run/checkpoints")).best(), 3);
  EXPECT_TRUE(validated.recorder.told(
      "3 validations in a row did not get below 3.0000 nats; best: 3.0000 at step 3"));
}

TEST(EarlyStopping, WaitsAsLongAsAsked) {
  const TempFolder folder;
  EXPECT_EQ(Validated(kLosses).run(patient_config(4), folder.path("four")).status, TrainStatus::finished);
  EXPECT_EQ(Validated(kLosses).run(patient_config(0), folder.path("off")).status, TrainStatus::finished);
}

TEST(EarlyStopping, AResumedRunHasNotForgotten) {
  const TempFolder folder;
  Config config = patient_config(3);
  config.train.steps = 4;
  EXPECT_EQ(Validated(kLosses).run(config, folder.path("run")).status, TrainStatus::finished);
  config.train.steps = 8;
  EXPECT_EQ(Validated(kLosses).run(config, folder.path("run"), true).step, 6);
  // Asked again, it stays stopped; with more patience it goes on.
  EXPECT_EQ(Validated(kLosses).run(config, folder.path("run"), true).status, TrainStatus::stopped_early);
  config.train.early_stopping = 4;
  const TrainResult result = Validated(kLosses).run(config, folder.path("run"), true);
  EXPECT_EQ(result.status, TrainStatus::finished);
  EXPECT_EQ(result.step, 8);
}

TEST(EarlyStopping, NeedsValidationData) {
  const TempFolder folder;
  Config config = patient_config(2);
  config.data.type = "text";
  config.data.train = {folder.write("text.txt", std::string(500, 'a'))};
  config.data.validation_fraction = 0;
  EXPECT_THAT(error_of(ErrorKind::user, [&] { train(config, folder.path("run")); }),
              HasSubstr("train.early_stopping needs data to validate on"));
}

}  // namespace
}  // namespace perceiver
