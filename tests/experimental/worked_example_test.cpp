// The worked example of docs/experimental.md, from the public headers alone.
#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "perceiver/experimental/experimental.h"

namespace perceiver {
namespace {

constexpr int64_t kPoints = 64;

struct Network {
  explicit Network(DeviceContext& context) {
    declare_linear(store, hidden, "hidden", 2, 32);
    declare_linear(store, output, "output", 32, 4);
    store.allocate(context, DType::f32);
    store.initialize(1);
  }
  Variable features(Tape& tape, const Tensor& x) const {
    return ops::linear(tape, Tape::constant(x), hidden, Activation::gelu);
  }

  ParameterStore store;
  ops::LinearParameters hidden, output;
};

/// Points in the unit square; the class is the number of coordinates above a half, plus 1.
struct Points {
  Points() {
    RandomStream random(5, RandomPurpose::user);
    for (int64_t i = 0; i < kPoints; ++i) {
      const double x = random.uniform(), y = random.uniform();
      coordinates.insert(coordinates.end(), {static_cast<float>(x), static_cast<float>(y)});
      classes.push_back(1 + (x > 0.5) + (y > 0.5));
    }
  }
  std::vector<float> coordinates;
  std::vector<int32_t> classes;
};

/// Trains steps [begin, end); returns how many points were right in the last one.
double train(DeviceContext& context, Network& network, TrainingSteps& steps, int64_t begin, int64_t end) {
  const Points points;
  const Tensor x = Tensor::from_host<float>(context, {kPoints, 2}, points.coordinates);
  const Tensor targets = Tensor::from_host<int32_t>(context, {kPoints}, points.classes);
  Config config;
  config.optimizer.learning_rate = 0.02;
  config.schedule.type = ScheduleType::cosine;
  config.train.steps = 300;
  double correct = 0;
  for (int64_t step = begin; step < end; ++step) {
    steps.start(step, learning_rate(config, step), 1.0 / kPoints);
    Tape tape(context, true, true, steps.random(1));
    const ops::LossResult loss = ops::output_loss(tape, network.features(tape, x), network.output, targets,
                                                  {.gradient_scale = steps.loss_scale()});
    tape.backward();
    steps.update(loss.totals);
    correct = loss.totals.to_host<double>()[3];
  }
  return correct;
}

TEST(WorkedExample, LearnsItsClasses) {
  const std::shared_ptr<DeviceContext> context = DeviceContext::open("cpu", 1);
  Network network(*context);
  OptimizerConfig optimizer;
  optimizer.type = OptimizerType::adamw;
  TrainingSteps steps(optimizer, *context, network.store);
  EXPECT_GE(train(*context, network, steps, 0, 300), kPoints - 2);
  EXPECT_TRUE(steps.report().finite);

  Tape tape(*context, false);
  const Tensor corner = Tensor::from_host<float>(*context, {1, 2}, std::vector<float>{0.9F, 0.9F});
  const std::vector<float> logits =
      ops::linear(tape, network.features(tape, corner), network.output).value.to_host<float>();
  ASSERT_EQ(logits.size(), 4U);
  EXPECT_GT(logits[3], logits[1]);
}

TEST(WorkedExample, ContinuesBitForBitFromItsFiles) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("perceiver_worked_example_" + std::to_string(::getpid()));
  std::filesystem::create_directory(folder);
  const std::shared_ptr<DeviceContext> context = DeviceContext::open("cpu", 2);
  Network whole(*context), resumed(*context);
  {
    TrainingSteps steps({}, *context, whole.store);
    train(*context, whole, steps, 0, 20);
    write_tensors(folder / "model.safetensors", whole.store.tensors());
    write_tensors(folder / "adam.safetensors", steps.state(),
                  {{"updates", std::to_string(steps.report().updates)}});
    train(*context, whole, steps, 20, 40);
  }
  TrainingSteps steps({}, *context, resumed.store);
  read_tensors(folder / "model.safetensors", resumed.store.tensors());
  resumed.store.publish();
  const auto metadata = read_tensors(folder / "adam.safetensors", steps.state());
  steps.set_updates(std::stoll(metadata.at("updates")));
  train(*context, resumed, steps, 20, 40);
  EXPECT_EQ(resumed.store.values().to_host<float>(), whole.store.values().to_host<float>());
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace perceiver
