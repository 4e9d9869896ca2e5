// Training on several ranks, which are threads here.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "tests/support/small_model.h"
#include "tests/support/thread_world.h"
#include "tests/support/tiny_run.h"

namespace perceiver {
namespace {

constexpr int64_t kSteps = 5;

struct Outcome {
  std::vector<StepReport> reports;
  std::vector<double> values, average, state;
  std::vector<double> read;  ///< weights that a pass would read
  Learner::Bytes bytes;
};

std::vector<double> doubles(const Tensor& tensor) {
  return tensor ? tensor.to_host<double>() : std::vector<double>();
}

/// Without the biases of keys: their gradients are 0 but for rounding, which some optimizers blow up to any
/// size.
std::vector<double> without_key_biases(const PerceiverAR& model, std::vector<double> values) {
  for (const ParameterInfo& info : model.parameters().infos())
    if (info.name.ends_with("attention.k.bias"))
      std::fill_n(values.begin() + info.offset, info.elements(), 0);
  return values;
}

Config wide_config() {
  Config config = tiny_config();
  config.train.precision = Precision::float64;
  config.train.batch = 16;
  config.train.ema_decay = 0.9;
  config.model.layers = 3;
  config.model.residual_dropout = 0.2;
  config.model.context_dropout = 0.3;
  config.optimizer.weight_decay = 0.1;
  config.optimizer.clip_norm = 0.5;
  config.loss.z_loss = 1e-3;
  return config;
}

using Spoil = std::function<void(int64_t step, int rank, Batch& batch)>;

/// A few steps on each of the ranks of `world`; null: alone.
Outcome train_steps(const Config& config, World* world, const Spoil& spoil = {}, int64_t bucket = 2000) {
  const std::unique_ptr<Dataset> data = open_dataset(config.data);
  PerceiverAR model(config.model, DeviceContext::cpu(1), DType::f64);
  model.parameters().initialize(config.train.seed);
  LearnerRanks ranks;
  const int64_t group = world == nullptr ? 0 : world->rank(), groups = world == nullptr ? 1 : world->size();
  ranks.share = share_of(config.train.batch, config.train.micro_batches, group, groups);
  ranks.bucket_elements = bucket;
  ranks.steps_in_flight = 2;
  ranks.world = world;
  if (world != nullptr) ranks.all = world->communicator(model.context(), true);
  Learner learner(config, model, ranks);
  Loader loader(*data, Split::train, config.model, ranks.share, config.train.seed, 0);
  Outcome outcome;
  for (int64_t step = 0; step < kSteps; ++step) {
    if (learner.in_flight() == learner.capacity()) outcome.reports.push_back(learner.finish());
    Batch batch = loader.next();
    if (spoil) spoil(step, static_cast<int>(group), batch);
    learner.start(step, batch);
  }
  while (learner.in_flight() > 0) outcome.reports.push_back(learner.finish());
  outcome.read = doubles(model.parameters().read_values());
  if (const Tensor values = learner.collect_values())
    outcome.values = without_key_biases(model, doubles(values));
  if (const Tensor average = learner.collect_average())
    outcome.average = without_key_biases(model, doubles(average));
  for (const NamedTensor& each : learner.collect_optimizer_state())
    for (const double value : each.tensor.to_host<double>()) outcome.state.push_back(value);
  outcome.bytes = learner.bytes();
  return outcome;
}

/// Outcomes of all ranks.
std::vector<Outcome> train_ranks(int ranks, const Config& config, const Spoil& spoil = {}) {
  std::vector<Outcome> outcomes(ranks);
  run_ranks(ranks, [&](ThreadWorld& world) { outcomes[world.rank()] = train_steps(config, &world, spoil); });
  return outcomes;
}

void expect_near(const std::vector<double>& found, const std::vector<double>& wanted, double tolerance) {
  ASSERT_EQ(found.size(), wanted.size());
  for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], wanted[i], tolerance) << i;
}

void expect_same(const Outcome& found, const Outcome& alone) {
  for (size_t i = 0; i < alone.reports.size(); ++i) {
    const StepReport &a = found.reports[i], &b = alone.reports[i];
    EXPECT_NEAR(a.sums.loss, b.sums.loss, 1e-9 * b.sums.loss) << "step " << i;
    EXPECT_NEAR(a.sums.nll, b.sums.nll, 1e-9 * b.sums.nll);
    EXPECT_NEAR(a.sums.z_loss, b.sums.z_loss, 1e-9);
    EXPECT_EQ(a.sums.correct, b.sums.correct);
    EXPECT_EQ(a.sums.targets, b.sums.targets);
    EXPECT_EQ(a.inputs, b.inputs);
    EXPECT_NEAR(a.gradient_norm, b.gradient_norm, 1e-9 * b.gradient_norm);
  }
  expect_near(found.values, alone.values, 1e-9);
  expect_near(found.average, alone.average, 1e-9);
  expect_near(found.state, alone.state, 1e-9);
}

TEST(Ranks, AnyNumberOfThemComputesWhatOneDoes) {
  for (const Sharding shard : {Sharding::none, Sharding::optimizer, Sharding::gradients}) {
    for (const int64_t micro_batches : {1, 2}) {
      Config config = wide_config();
      config.train.shard = shard;
      config.train.micro_batches = micro_batches;
      const Outcome alone = train_steps(config, nullptr);
      for (const int ranks : {1, 2, 3, 4, 8}) {
        SCOPED_TRACE(fmt::format("shard {}, {} micro-batches, {} ranks", static_cast<int>(shard),
                                 micro_batches, ranks));
        expect_same(train_ranks(ranks, config)[0], alone);
      }
    }
  }
}

// The gradient of a tied embedding begins with the output and ends with the input.
TEST(Ranks, TiedOutputAndKeysOfTheLatents) {
  for (const Sharding shard : {Sharding::none, Sharding::optimizer, Sharding::gradients})
    for (const int64_t micro_batches : {1, 2}) {
      Config config = wide_config();
      config.model = testing::with_own_latent_keys(config.model);
      config.model.output_bias = micro_batches == 1;  // false: no parameter after the blocks
      config.train.shard = shard;
      config.train.micro_batches = micro_batches;
      expect_same(train_ranks(3, config)[0], train_steps(config, nullptr));
    }
}

TEST(Ranks, UnevenSharesAndSumsInsteadOfMeans) {
  Config config = wide_config();
  config.train.batch = 10;
  config.train.micro_batches = 2;
  for (const Reduction reduction : {Reduction::mean, Reduction::sum}) {
    config.loss.reduction = reduction;
    // Targets spread unevenly over the ranks.
    const Spoil spoil = [](int64_t, int rank, Batch& batch) {
      if (rank == 1) std::fill_n(batch.targets.begin(), 14, 0);
    };
    const Spoil spoil_alone = [](int64_t, int, Batch& batch) {  // rank 1 of 3 starts at example 1 of 5
      std::fill_n(batch.targets.begin() + batch.length, 14, 0);
    };
    expect_same(train_ranks(3, config, spoil)[0], train_steps(config, nullptr, spoil_alone));
  }
}

TEST(Ranks, EveryOptimizer) {
  for (const OptimizerType type : {OptimizerType::adam, OptimizerType::sgd, OptimizerType::lamb,
                                   OptimizerType::adafactor, OptimizerType::muon}) {
    Config config = wide_config();
    config.optimizer.type = type;
    expect_same(train_ranks(3, config)[0], train_steps(config, nullptr));
  }
}

TEST(Ranks, RecomputationAndEveryRankHasTheSameReports) {
  Config config = wide_config();
  config.train.recompute = Recompute::block;
  const std::vector<Outcome> all = train_ranks(3, config);
  expect_same(all[0], train_steps(config, nullptr));
  for (const Outcome& each : all)
    for (size_t i = 0; i < each.reports.size(); ++i) {
      EXPECT_EQ(each.reports[i].sums.loss, all[0].reports[i].sums.loss);
      EXPECT_EQ(each.reports[i].gradient_norm, all[0].reports[i].gradient_norm);
    }
}

// Some are gathered after the step's end.
TEST(Ranks, WhenNoStepIsInFlightEveryRankHasAllWeights) {
  for (const Sharding shard : {Sharding::none, Sharding::optimizer, Sharding::gradients}) {
    Config config = wide_config();
    config.train.shard = shard;
    config.model.layers = 8;
    const std::vector<double> alone = train_steps(config, nullptr).read;
    for (const Outcome& each : train_ranks(3, config)) expect_near(each.read, alone, 1e-9);
  }
}

TEST(Ranks, RepeatBitwise) {
  const Config config = wide_config();
  const Outcome first = train_ranks(3, config)[0], second = train_ranks(3, config)[0];
  EXPECT_EQ(first.values, second.values);
  EXPECT_EQ(first.state, second.state);
}

// Shapes of fewer and of more matrices than ranks.
TEST(Ranks, MuonDividesItsMomentumByMatrices) {
  Config config = wide_config();
  config.optimizer.type = OptimizerType::muon;
  const Outcome alone = train_steps(config, nullptr);
  for (const int ranks : {2, 3, 8}) {
    const std::vector<Outcome> all = train_ranks(ranks, config);
    expect_same(all[0], alone);
    EXPECT_TRUE(all[1].state.empty());
    EXPECT_LT(all[1].bytes.optimizer, alone.bytes.optimizer);
  }
  config.train.shard = Sharding::none;
  const Outcome undivided = train_ranks(2, config)[1];
  EXPECT_EQ(undivided.bytes.optimizer, alone.bytes.optimizer);
}

TEST(Ranks, StateIsDivided) {
  Config config = wide_config();
  const Outcome alone = train_steps(config, nullptr);
  const Outcome half = train_ranks(2, config)[1], quarter = train_ranks(4, config)[3];
  EXPECT_LT(100 * half.bytes.optimizer, 55 * alone.bytes.optimizer);
  EXPECT_LT(100 * quarter.bytes.optimizer, 32 * alone.bytes.optimizer);
  EXPECT_LT(100 * quarter.bytes.average, 32 * alone.bytes.average);
  EXPECT_EQ(quarter.bytes.gradients, alone.bytes.gradients);
  config.train.shard = Sharding::none;
  EXPECT_EQ(train_ranks(2, config)[1].bytes.optimizer, alone.bytes.optimizer);
  config.train.shard = Sharding::gradients;
  config.model.layers = 48;
  EXPECT_LT(2 * train_ranks(4, config)[3].bytes.gradients, train_steps(config, nullptr).bytes.gradients);
}

TEST(Ranks, ANonFiniteValueOnOneSkipsTheStepOnAll) {
  for (const Sharding shard : {Sharding::none, Sharding::optimizer, Sharding::gradients}) {
    Config config = wide_config();
    config.train.shard = shard;
    config.model.position_source = PositionSource::data;
    std::vector<Outcome> outcomes(3);
    run_ranks(3, [&](ThreadWorld& world) {
      const std::unique_ptr<Dataset> data = open_dataset(config.data);
      PerceiverAR model(config.model, DeviceContext::cpu(1), DType::f64);
      model.parameters().initialize(config.train.seed);
      LearnerRanks ranks{.all = world.communicator(model.context(), true),
                         .share = share_of(config.train.batch, 1, world.rank(), 3)};
      Learner learner(config, model, ranks);
      Loader loader(*data, Split::train, config.model, ranks.share, config.train.seed, 0);
      const Tensor& weights = model.parameters().values();
      const double before = weights.as<double>()[40];
      if (world.rank() == 1) weights.as<double>()[40] = std::numeric_limits<double>::quiet_NaN();
      const StepReport bad = learner.step(0, loader.next());
      EXPECT_FALSE(bad.finite);
      EXPECT_EQ(learner.updates(), 0);
      // Divided weights are sent around even after a skipped step, and so are whole again.
      if (shard == Sharding::none) {
        EXPECT_EQ(bad.offender == Learner::kNoOffender, world.rank() != 1);
      }
      weights.as<double>()[40] = before;
      EXPECT_TRUE(learner.step(1, loader.next()).finite);
      EXPECT_EQ(learner.updates(), 1);
    });
  }
}

TEST(Ranks, SignalsOfOneReachAllWithTheSameStep) {
  const Config config = wide_config();
  run_ranks(2, [&](ThreadWorld& world) {
    const std::unique_ptr<Dataset> data = open_dataset(config.data);
    PerceiverAR model(config.model, DeviceContext::cpu(1), DType::f64);
    model.parameters().initialize(config.train.seed);
    LearnerRanks ranks{.all = world.communicator(model.context(), true),
                       .share = share_of(config.train.batch, 1, world.rank(), 2)};
    Learner learner(config, model, ranks);
    Loader loader(*data, Split::train, config.model, ranks.share, config.train.seed, 0);
    learner.start(0, loader.next(),
                  {.stop = world.rank() == 1 ? 1.0 : 0.0, .save = 1, .used = world.leads() ? 0.3 : 0.0});
    const StepSignals signals = learner.finish().signals;
    EXPECT_EQ(signals.stop, 1);
    EXPECT_EQ(signals.time, 0);
    EXPECT_EQ(signals.save, 2);
    EXPECT_EQ(signals.used, 0.3);
  });
}

/// A whole run in `folder` on so many ranks.
TrainResult train_run(const Config& config, const std::string& folder, int ranks, bool resume) {
  TrainResult result;
  run_ranks(ranks, [&](ThreadWorld& world) {
    TrainerOptions options = run_options(folder, resume);
    options.world = &world;
    Trainer trainer(config, options);
    const TrainResult mine = trainer.run();
    if (world.leads()) result = mine;
  });
  return result;
}

std::vector<double> weights_in(const std::filesystem::path& checkpoint) {
  const LoadedModel loaded = load_model(checkpoint / model_file_name, DeviceContext::cpu(1), DType::f64);
  return without_key_biases(*loaded.model, doubles(loaded.model->parameters().values()));
}

class RanksOfARun : public ::testing::TestWithParam<OptimizerType> {};

TEST_P(RanksOfARun, ResumeBitwiseAtTheSameNumberAndWithinRoundingAtAnother) {
  const TempFolder folder;
  Config config = wide_config();
  config.optimizer.type = GetParam();
  config.train.steps = 8;
  config.checkpoint.minutes = 0;
  const auto whole = weights_in(train_run(config, folder.path("whole"), 2, false).checkpoint);
  const auto alone = weights_in(train(config, folder.path("alone")).checkpoint);
  const auto first_half = [&](const std::string& name, int ranks) {
    Config half = config;
    half.train.steps = 4;
    half.schedule.decay_steps = config.schedule.decay_steps;
    train_run(half, folder.path(name), ranks, false);
  };
  first_half("same", 2);
  EXPECT_EQ(weights_in(train_run(config, folder.path("same"), 2, true).checkpoint), whole);
  for (const int ranks : {1, 3, 4}) {
    const std::string name = fmt::format("from 2 to {}", ranks);
    first_half(name, 2);
    const auto found = weights_in(train_run(config, folder.path(name), ranks, true).checkpoint);
    for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], alone[i], 1e-9) << name;
  }
  first_half("to one", 3);
  const auto found = weights_in(train(config, folder.path("to one"), true).checkpoint);
  for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], alone[i], 1e-9);
}

INSTANTIATE_TEST_SUITE_P(Optimizers, RanksOfARun,
                         ::testing::Values(OptimizerType::adam, OptimizerType::muon));

}  // namespace
}  // namespace perceiver
