// Training with 8-bit products, emulated on the CPU.
#include "train/fp8_state.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "data/batches/loader.h"
#include "data/corpus.h"
#include "perceiver/experimental/host_values.h"
#include "tests/support/thread_world.h"
#include "tests/support/tiny_run.h"
#include "train/learner.h"

namespace perceiver {
namespace {

Config fp8_config(Precision precision = Precision::fp8) {
  Config config = tiny_config();
  config.train.precision = precision;
  config.train.batch = 8;
  config.model.layers = 2;
  config.model.residual_dropout = 0.1;
  config.model.context_dropout = 0.2;
  return config;
}

/// Sums of another order round otherwise, and at random.
void expect_same_size(const std::vector<double>& a, const std::vector<double>& b) {
  ASSERT_EQ(a.size(), b.size());
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::abs(a[i] - b[i]);
    size += std::abs(b[i]);
  }
  EXPECT_LE(difference, 0.01 * size);
}

/// A run of single steps.
struct Steps {
  explicit Steps(const Config& wanted, World* world = nullptr)
      : config(wanted),
        data(open_dataset(config.data)),
        model(config.model, DeviceContext::cpu(1), DType::f32) {
    model.parameters().initialize(config.train.seed);
    LearnerRanks ranks;
    const int64_t rank = world == nullptr ? 0 : world->rank(), count = world == nullptr ? 1 : world->size();
    ranks.share = share_of(config.train.batch, config.train.micro_batches, rank, count);
    if (world != nullptr) ranks.all = world->communicator(model.context(), true);
    learner = std::make_unique<Learner>(config, model, ranks);
    share = ranks.share;
  }

  std::vector<double> steps(int64_t first, int64_t last) {
    Loader loader(*data, Split::train, config.model, share, config.train.seed, first);
    std::vector<double> losses;
    for (int64_t step = first; step < last; ++step)
      losses.push_back(learner->step(step, loader.next()).sums.loss);
    return losses;
  }
  std::vector<float> scales() const {
    for (const NamedTensor& each : learner->collect_optimizer_state())
      if (each.name == "fp8.scales") return each.tensor.to_host<float>();
    return {};
  }

  Config config;
  std::unique_ptr<Dataset> data;
  PerceiverAR model;
  std::unique_ptr<Learner> learner;
  ExampleShare share;
};

void expect_near(const std::vector<double>& a, const std::vector<double>& b, double tolerance) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], tolerance * b[i]) << "step " << i;
}

TEST(Fp8Training, FollowsFloat32) {
  for (const int64_t micro_batches : {1, 2}) {
    Config config = fp8_config();
    config.train.micro_batches = micro_batches;
    Steps rounded(config);
    config.train.precision = Precision::float32;
    Steps plain(config);
    const std::vector<double> a = rounded.steps(0, 12), b = plain.steps(0, 12);
    expect_near(a, b, 0.02);
    EXPECT_NE(a, b);
    EXPECT_LT(a.back(), 0.9 * a.front());
  }
}

TEST(Fp8Training, RecomputationIsBitwiseTheSame) {
  Steps stored(fp8_config());
  const std::vector<double> losses = stored.steps(0, 5);
  for (const Recompute recompute : {Recompute::block, Recompute::attention_mlp}) {
    Config config = fp8_config();
    config.train.recompute = recompute;
    Steps again(config);
    EXPECT_EQ(again.steps(0, 5), losses);
    EXPECT_EQ(again.model.parameters().values().to_host<float>(),
              stored.model.parameters().values().to_host<float>());
  }
}

TEST(Fp8Training, ACheckpointKeepsTheScales) {
  Steps whole(fp8_config());
  const std::vector<double> losses = whole.steps(0, 8);
  Steps before(fp8_config());
  before.steps(0, 4);
  const std::vector<NamedTensor> state = before.learner->collect_optimizer_state();
  Steps after(fp8_config());
  after.model.parameters().values().copy_from(before.model.parameters().values());
  after.model.parameters().publish();
  const auto read = [&](const std::string& name, const Shape&, const Tensor& target) {
    const auto found =
        std::find_if(state.begin(), state.end(), [&](const NamedTensor& t) { return t.name == name; });
    ASSERT_NE(found, state.end()) << name;
    target.copy_from(found->tensor);
  };
  after.learner->load_optimizer_state(read);
  after.learner->load_fp8_scales(read);
  after.learner->set_updates(4);
  EXPECT_EQ(after.steps(4, 8), std::vector<double>(losses.begin() + 4, losses.end()));
  EXPECT_EQ(after.scales(), whole.scales());
}

TEST(Fp8Training, ScalesFollowTheMagnitudes) {
  Steps run(fp8_config());
  run.steps(0, 1);
  const std::vector<float> scales = run.scales();
  ASSERT_FALSE(scales.empty());
  // Gradients of a mean over 64 targets are small, and their scales large.
  for (size_t site = 0; site < scales.size() / 8; ++site) {
    EXPECT_EQ(scales[8 * site] * scales[8 * site + 4], 1);
    if (site % 3 == 2) {
      EXPECT_GT(scales[8 * site], 1e4f) << site;
    }
  }
}

/// The search for what was not finite runs the step again.
TEST(Fp8Training, AStepThatIsNotFiniteLeavesNoMagnitudes) {
  Steps run(fp8_config());
  run.steps(0, 3);
  const std::vector<float> before = run.scales();
  const Tensor& values = run.model.parameters().values();
  const std::vector<float> kept = values.to_host<float>();
  int64_t place = -1;
  for (const ParameterInfo& info : run.model.parameters().infos())
    if (info.name.starts_with("self.0.") && info.shape.rank() == 2) place = info.offset;
  ASSERT_GE(place, 0);
  values.as<float>()[place] = 1e20f;
  values.as<float>()[place + 1] = std::numeric_limits<float>::quiet_NaN();
  Loader loader(*run.data, Split::train, run.config.model, run.share, run.config.train.seed, 3);
  EXPECT_FALSE(run.learner->step(3, loader.next()).finite);
  values.copy_from(Tensor::from_host<float>(run.model.context(), values.shape(), kept));
  EXPECT_TRUE(run.learner->step(4, loader.next()).finite);
  const std::vector<float> after = run.scales();
  for (size_t i = 0; i < before.size(); i += 8) EXPECT_GE(8 * after[i], before[i]) << i;
}

TEST(Fp8Training, PassesThatDoNotTrainAreNotRounded) {
  Steps run(fp8_config());
  const Batch batch = Loader(*run.data, Split::train, run.config.model, 4, 1, 0).next();
  const auto loss = [&] {
    Tape tape(run.model.context(), false);
    const ModelInputs inputs = run.model.prepare(batch, {});
    return run.model.loss(tape, inputs, {}, Recompute::none).totals.to_host<double>();
  };
  const std::vector<double> with = loss();
  run.learner.reset();
  EXPECT_EQ(loss(), with);
}

TEST(Fp8Training, RanksAgreeOnTheScales) {
  Steps alone(fp8_config());
  const std::vector<double> losses = alone.steps(0, 5);
  std::vector<std::vector<double>> found(2);
  std::vector<std::vector<float>> values(2);
  run_ranks(2, [&](ThreadWorld& world) {
    const auto rank = static_cast<size_t>(world.rank());
    Steps run(fp8_config(), &world);
    found[rank] = run.steps(0, 5);
    values[rank] = run.model.parameters().read_values().to_host<float>();
    const std::vector<float> scales = run.scales();
    if (rank == 0) {
      EXPECT_EQ(scales.size(), alone.scales().size());
    }
  });
  EXPECT_EQ(found[0], found[1]);
  EXPECT_EQ(values[0], values[1]);
  expect_near(found[0], losses, 0.01);
}

TEST(Bf16Moments, FollowFloat32AndTakeHalfTheMemory) {
  Config config = fp8_config(Precision::float32);
  Steps plain(config);
  config.optimizer.state = OptimizerState::bfloat16;
  Steps rounded(config);
  expect_near(rounded.steps(0, 15), plain.steps(0, 15), 0.02);
  EXPECT_EQ(2 * rounded.learner->bytes().optimizer, plain.learner->bytes().optimizer);
}

TEST(Bf16Moments, AreTheSameOnAnyNumberOfRanks) {
  Config config = fp8_config(Precision::float32);
  config.optimizer.state = OptimizerState::bfloat16;
  Steps alone(config);
  const std::vector<double> losses = alone.steps(0, 5);
  for (const Sharding shard : {Sharding::none, Sharding::optimizer, Sharding::gradients}) {
    config.train.shard = shard;
    run_ranks(2, [&](ThreadWorld& world) {
      Steps run(config, &world);
      expect_near(run.steps(0, 5), losses, 1e-4);
    });
  }
}

/// A checkpoint of several ranks, also one that a single rank goes on from.
TEST(Bf16Moments, ACheckpointOfSeveralRanksHasThem) {
  Config config = fp8_config(Precision::float32);
  config.optimizer.state = OptimizerState::bfloat16;
  Steps alone(config);
  alone.steps(0, 5);
  const std::vector<NamedTensor> expected = alone.learner->collect_optimizer_state();
  for (const Sharding shard : {Sharding::none, Sharding::optimizer, Sharding::gradients}) {
    config.train.shard = shard;
    run_ranks(2, [&](ThreadWorld& world) {
      Steps run(config, &world);
      run.steps(0, 5);
      const std::vector<NamedTensor> state = run.learner->collect_optimizer_state();
      if (world.rank() != 0) return;
      ASSERT_EQ(state.size(), expected.size());
      for (size_t i = 0; i < state.size(); ++i) {
        EXPECT_EQ(state[i].name, expected[i].name);
        ASSERT_EQ(state[i].tensor.dtype(), DType::bf16);
        expect_same_size(host_doubles(state[i].tensor), host_doubles(expected[i].tensor));
      }
    });
  }
}

}  // namespace
}  // namespace perceiver
