#include "perceiver/experimental/training_steps.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "perceiver/experimental/layers.h"
#include "perceiver/experimental/tensor_file.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using ::testing::DoubleEq;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Three numbers p with the gradient that a test sets.
struct Numbers {
  explicit Numbers(DeviceContext& context) {
    store.declare(p, "p", {3}, {.kind = Initializer::ones});
    store.allocate(context, DType::f64);
    store.initialize(0);
  }
  std::vector<double> values() const { return store.value(store.infos()[0]).to_host<double>(); }

  ParameterStore store;
  Variable p;
};

class TrainingStepsTest : public ::testing::Test {
 protected:
  /// One step whose gradient is `gradient`, in the given number of equal parts.
  void step(TrainingSteps& steps, Numbers& numbers, int64_t number, double rate,
            const std::vector<double>& gradient, int parts = 1, const Tensor& loss = {}) {
    steps.start(number, rate);
    for (int part = 0; part < parts; ++part) {
      Tape tape(*context_, true);
      std::vector<double> share = gradient;
      for (double& each : share) each /= parts;
      tape.give(numbers.p, Tensor::from_host<double>(*context_, {3}, share));
    }
    steps.update(loss);
  }
  static OptimizerConfig sgd(double clip_norm = 0) {
    OptimizerConfig config;
    config.type = OptimizerType::sgd;
    config.momentum = 0;
    config.clip_norm = clip_norm;
    return config;
  }

  std::shared_ptr<DeviceContext> context_ = DeviceContext::cpu(2);
};

TEST_F(TrainingStepsTest, FollowTheGradientWithTheRateOfTheStep) {
  Numbers numbers(*context_);
  TrainingSteps steps(sgd(), *context_, numbers.store);
  step(steps, numbers, 0, 0.5, {1, -2, 0});
  EXPECT_THAT(numbers.values(), ElementsAre(0.5, 2, 1));
  EXPECT_DOUBLE_EQ(steps.report().gradient_norm, std::sqrt(5));
  step(steps, numbers, 1, 0.25, {4, 0, 0});
  EXPECT_THAT(numbers.values(), ElementsAre(-0.5, 2, 1));
  EXPECT_EQ(steps.report().updates, 2);
}

TEST_F(TrainingStepsTest, ClipTheNorm) {
  Numbers numbers(*context_);
  TrainingSteps steps(sgd(1), *context_, numbers.store);
  step(steps, numbers, 0, 1, {3, 0, 4});
  EXPECT_THAT(numbers.values(), ElementsAre(DoubleEq(0.4), 1, DoubleEq(0.2)));
  EXPECT_DOUBLE_EQ(steps.report().gradient_norm, 5);
}

TEST_F(TrainingStepsTest, PartsOfABatchAddUp) {
  Numbers whole(*context_), parts(*context_);
  TrainingSteps whole_steps(sgd(), *context_, whole.store), part_steps(sgd(), *context_, parts.store);
  step(whole_steps, whole, 0, 0.5, {1, -2, 4});
  step(part_steps, parts, 0, 0.5, {1, -2, 4}, 4);
  EXPECT_EQ(whole.values(), parts.values());
}

TEST_F(TrainingStepsTest, AParameterWithoutAGradientStays) {
  Numbers numbers(*context_);
  TrainingSteps steps(sgd(), *context_, numbers.store);
  step(steps, numbers, 0, 1, {5, 5, 5});
  steps.start(1, 1);
  steps.update();
  EXPECT_THAT(numbers.values(), ElementsAre(-4, -4, -4));
}

TEST_F(TrainingStepsTest, NothingMovesUnlessLossAndGradientAreFinite) {
  Numbers numbers(*context_);
  TrainingSteps steps(sgd(), *context_, numbers.store);
  step(steps, numbers, 0, 1, {1, std::numeric_limits<double>::quiet_NaN(), 1});
  EXPECT_FALSE(steps.report().finite);
  const double infinite = std::numeric_limits<double>::infinity();
  step(steps, numbers, 1, 1, {1, 1, 1}, 1, Tensor::from_host<double>(*context_, {1}, {&infinite, 1}));
  EXPECT_FALSE(steps.report().finite);
  EXPECT_EQ(steps.report().updates, 0);
  EXPECT_THAT(numbers.values(), ElementsAre(1, 1, 1));
  step(steps, numbers, 2, 1, {1, 1, 1});
  EXPECT_TRUE(steps.report().finite);
  EXPECT_THAT(numbers.values(), ElementsAre(0, 0, 0));
}

TEST_F(TrainingStepsTest, ContinueFromFilesBitForBit) {
  const TempFolder folder;
  OptimizerConfig adam;
  const auto gradient = [](int64_t number) -> std::vector<double> {
    return {0.1 * static_cast<double>(number + 1), 1, -1.0 / static_cast<double>(number + 2)};
  };
  Numbers whole(*context_), resumed(*context_);
  {
    TrainingSteps steps(adam, *context_, whole.store);
    for (int64_t number = 0; number < 5; ++number) step(steps, whole, number, 0.1, gradient(number));
    write_tensors(folder.path("p"), whole.store.tensors());
    write_tensors(folder.path("adam"), steps.state());
    for (int64_t number = 5; number < 9; ++number) step(steps, whole, number, 0.1, gradient(number));
  }
  TrainingSteps steps(adam, *context_, resumed.store);
  read_tensors(folder.path("p"), resumed.store.tensors());
  read_tensors(folder.path("adam"), steps.state());
  steps.set_updates(5);
  for (int64_t number = 5; number < 9; ++number) step(steps, resumed, number, 0.1, gradient(number));
  EXPECT_EQ(whole.values(), resumed.values());
}

TEST_F(TrainingStepsTest, DropoutDependsOnSeedStepAndExampleOnly) {
  Numbers numbers(*context_);
  TrainingSteps steps(sgd(), *context_, numbers.store);
  const Tensor ones = Tensor::from_host<double>(*context_, {4, 8}, std::vector<double>(32, 1));
  const auto dropped = [&](int64_t number, uint64_t seed, int64_t first, int64_t examples) {
    steps.start(number, 0);
    Tape tape(*context_, false, true, steps.random(seed, first));
    const Variable x = Tape::constant(ones.view(0, {examples, 8}));
    const auto values =
        ops::residual_add(tape, {}, x, {.rate = 0.5, .per_example = 8}).value.to_host<double>();
    steps.update();
    return values;
  };
  const std::vector<double> all = dropped(7, 1, 0, 4);
  EXPECT_THAT(all, ::testing::Each(::testing::AnyOf(0, 2)));
  EXPECT_THAT(all, ::testing::Contains(0));
  EXPECT_THAT(all, ::testing::Contains(2));
  EXPECT_EQ(dropped(7, 1, 0, 4), all);
  EXPECT_EQ(dropped(7, 1, 2, 2), std::vector(all.begin() + 16, all.end()));
  EXPECT_NE(dropped(8, 1, 0, 4), all);
  EXPECT_NE(dropped(7, 2, 0, 4), all);
}

TEST_F(TrainingStepsTest, MisuseIsAnErrorOfTheCaller) {
  ParameterStore empty;
  EXPECT_THAT(message_of([&] { TrainingSteps(sgd(), *context_, empty); }), HasSubstr("allocate"));
  Numbers numbers(*context_);
  TrainingSteps steps(sgd(), *context_, numbers.store);
  EXPECT_THAT(message_of([&] { steps.update(); }), HasSubstr("call start first"));
  EXPECT_THAT(message_of([&] { steps.start(-1, 0); }), HasSubstr("-1"));
  steps.start(0, 0);
  EXPECT_THAT(message_of([&] { steps.start(1, 0); }), HasSubstr("before the last one had its update"));
  EXPECT_THAT(message_of([&] { steps.update(Tensor::zeros(*context_, DType::f32, {1})); }), HasSubstr("f64"));
  EXPECT_THAT(message_of([&] { steps.set_updates(-1); }), HasSubstr("-1"));
}

}  // namespace
}  // namespace perceiver
