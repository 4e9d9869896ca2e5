// Training a Transformer-XL: memories carried from step to step, in checkpoints, over micro-batches and
// ranks.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/recurrent_model.h"
#include "tests/support/small_model.h"
#include "tests/support/thread_world.h"
#include "tests/support/tiny_run.h"

namespace perceiver {
namespace {

Config recurrent_run(int64_t steps = 8) {
  Config config = tiny_config(steps);
  config.model = testing::recurrent_config();
  config.model.vocabulary = 259;
  config.model.residual_dropout = 0.1;
  config.model.attention_dropout = 0.1;
  config.train.precision = Precision::float64;
  config.train.ema_decay = 0.9;
  return config;
}

struct RecurrentOutcome {
  std::vector<StepReport> reports;
  std::vector<double> values, memory;
};

using SpoilStep = std::function<void(int64_t step, PerceiverAR& model)>;

RecurrentOutcome train_streams(const Config& config, int64_t steps, World* world = nullptr,
                               const SpoilStep& before = {}) {
  const std::unique_ptr<Dataset> data = open_dataset(config.data);
  PerceiverAR model(config.model, DeviceContext::cpu(1), DType::f64);
  model.parameters().initialize(config.train.seed);
  LearnerRanks ranks;
  const int64_t group = world == nullptr ? 0 : world->rank(), groups = world == nullptr ? 1 : world->size();
  ranks.share = share_of(config.train.batch, config.train.micro_batches, group, groups);
  ranks.world = world;
  if (world != nullptr) ranks.all = world->communicator(model.context(), true);
  Learner learner(config, model, ranks);
  Loader loader(*data, Split::train, config.model, ranks.share, config.train.seed, 0);
  RecurrentOutcome outcome;
  for (int64_t step = 0; step < steps; ++step) {
    if (before) before(step, model);
    outcome.reports.push_back(learner.step(step, loader.next()));
  }
  if (const Tensor values = learner.collect_values()) outcome.values = values.to_host<double>();
  for (const NamedTensor& each : learner.collect_memory())
    for (const double value : each.tensor.to_host<double>()) outcome.memory.push_back(value);
  return outcome;
}

void expect_near(const std::vector<double>& a, const std::vector<double>& b, double tolerance) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], tolerance) << i;
}

TEST(RecurrentTraining, MicroBatchesAndRecomputationChangeNothing) {
  const Config config = recurrent_run();
  const RecurrentOutcome whole = train_streams(config, 5);
  EXPECT_GT(whole.memory.size(), 0u);
  for (const Recompute recompute : {Recompute::none, Recompute::block, Recompute::attention_mlp})
    for (const int64_t parts : {1, 2, 4}) {
      Config other = config;
      other.train.micro_batches = parts;
      other.train.recompute = recompute;
      const RecurrentOutcome outcome = train_streams(other, 5);
      if (parts == 1) {
        EXPECT_EQ(outcome.values, whole.values);
        EXPECT_EQ(outcome.memory, whole.memory);
      }
      expect_near(outcome.values, whole.values, 1e-9);
      expect_near(outcome.memory, whole.memory, 1e-9);
    }
}

TEST(RecurrentTraining, AnyNumberOfRanks) {
  Config config = recurrent_run();
  config.train.micro_batches = 2;
  config.train.batch = 8;
  const RecurrentOutcome alone = train_streams(config, 5);
  for (const int ranks : {2, 3}) {
    run_ranks(ranks, [&](World& world) {
      const RecurrentOutcome outcome = train_streams(config, 5, &world);
      EXPECT_NEAR(outcome.reports.back().sums.loss, alone.reports.back().sums.loss, 1e-8);
      EXPECT_EQ(outcome.memory.empty(), !world.leads());
      if (!world.leads()) return;
      expect_near(outcome.values, alone.values, 1e-9);
      expect_near(outcome.memory, alone.memory, 1e-9);
    });
  }
}

TEST(RecurrentTraining, TheMemoryIsRead) {
  Config config = recurrent_run();
  const RecurrentOutcome with = train_streams(config, 2);
  config.model.memory_length = 0;
  const RecurrentOutcome without = train_streams(config, 2);
  EXPECT_EQ(with.reports[0].sums.nll, without.reports[0].sums.nll);
  EXPECT_NE(with.reports[1].sums.nll, without.reports[1].sums.nll);
  EXPECT_TRUE(without.memory.empty());
}

/// A step that is not finite leaves the memory as it was.
TEST(RecurrentTraining, MemoriesStayFinite) {
  const Config config = recurrent_run();
  double kept = 0;
  const RecurrentOutcome outcome = train_streams(config, 5, nullptr, [&](int64_t step, PerceiverAR& model) {
    double& value = model.parameters().values().as<double>()[40];
    if (step == 2) kept = std::exchange(value, std::numeric_limits<double>::quiet_NaN());
    if (step == 3) value = kept;
  });
  EXPECT_TRUE(outcome.reports[1].finite);
  EXPECT_FALSE(outcome.reports[2].finite);
  EXPECT_TRUE(outcome.reports[3].finite);
  EXPECT_TRUE(outcome.reports[4].finite);
  for (const double value : outcome.memory) ASSERT_TRUE(std::isfinite(value));
}

/// Stops a run once a step is logged.
class StopAtStep : public Recorder {
 public:
  explicit StopAtStep(int64_t step) : step_(step) {}
  void on_log(const LogEntry& entry) override { stop = entry.step >= step_; }
  std::atomic<bool> stop = false;

 private:
  int64_t step_;
};

TEST(RecurrentTraining, AResumedRunIsTheSameBitForBit) {
  const TempFolder folder;
  Config config = recurrent_run(9);
  config.train.precision = Precision::float32;
  const std::string whole = folder.path() + "/whole", parts = folder.path() + "/parts";
  ASSERT_EQ(train(config, whole).status, TrainStatus::finished);
  StopAtStep observer(4);
  TrainerOptions options = run_options(parts, false, &observer);
  options.stop = &observer.stop;
  ASSERT_EQ(Trainer(config, options).run().status, TrainStatus::interrupted);
  ASSERT_TRUE(std::filesystem::exists(std::filesystem::path(checkpoint_path(parts, 4)) / memory_file_name));
  ASSERT_EQ(train(config, parts, true).status, TrainStatus::finished);
  EXPECT_EQ(checkpoint_bytes(whole, 9), checkpoint_bytes(parts, 9));
  EXPECT_EQ(file_bytes(std::filesystem::path(checkpoint_path(whole, 9)) / memory_file_name),
            file_bytes(std::filesystem::path(checkpoint_path(parts, 9)) / memory_file_name));
}

TEST(RecurrentTraining, ACheckpointWithoutItsMemoryIsDamaged) {
  const TempFolder folder;
  const std::string run = folder.path() + "/run";
  ASSERT_EQ(train(recurrent_run(3), run).status, TrainStatus::finished);
  std::filesystem::remove(std::filesystem::path(checkpoint_path(run, 3)) / memory_file_name);
  EXPECT_THROW(verify_checkpoint(checkpoint_path(run, 3)), CheckpointDamage);
}

TEST(RecurrentTraining, ValidatesWithItsOwnMemory) {
  const TempFolder folder;
  Config config = recurrent_run(4);
  config.eval.max_documents = 4;
  config.eval.latents = 3;
  config.eval.memory_length = 12;
  Recorder recorder;
  TrainerOptions options = run_options(folder.path() + "/run", false, &recorder);
  options.validate = make_validation(config, {});
  ASSERT_EQ(Trainer(config, options).run().status, TrainStatus::finished);
  ASSERT_EQ(recorder.evals.size(), 1u);
  EXPECT_GT(recorder.evals[0].loss, 0);
}

}  // namespace
}  // namespace perceiver
