// Single training steps.
#include "train/learner.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "model/model_file.h"
#include "tests/support/tiny_run.h"
#include "train/trainer.h"

namespace perceiver {
namespace {

using testing::HasSubstr;

/// A learner on one batch of the copy task.
struct Single {
  explicit Single(const Config& wanted)
      : config(wanted),
        data(open_dataset(config.data)),
        model(config.model, DeviceContext::cpu(static_cast<int>(config.threads)),
              config.train.precision == Precision::float64 ? DType::f64 : DType::f32) {
    model.parameters().initialize(config.train.seed);
    learner = std::make_unique<Learner>(config, model);
    batch = Loader(*data, Split::train, config.model, config.train.batch, config.train.seed, 0).next();
  }
  Config config;
  std::unique_ptr<Dataset> data;
  PerceiverAR model;
  std::unique_ptr<Learner> learner;
  Batch batch;
};

Config double_precision() {
  Config config = tiny_config();
  config.train.precision = Precision::float64;
  config.train.batch = 6;
  config.model.residual_dropout = 0.2;
  config.model.context_dropout = 0.3;
  config.model.latent_dropout = 0.2;
  return config;
}

TEST(Learner, MicroBatchesGiveTheGradientOfTheLargeBatch) {
  for (const Reduction reduction : {Reduction::mean, Reduction::sum}) {
    for (const int64_t kept : {int64_t{0}, int64_t{12}}) {
      Config config = double_precision();
      config.loss.reduction = reduction;
      config.model.train_input_positions = kept;
      Single whole(config);
      config.train.micro_batches = 3;
      Single parts(config);
      // Targets spread unevenly over the micro-batches: a mean of means would differ.
      for (Single* each : {&whole, &parts}) std::fill_n(each->batch.targets.begin(), 14, 0);
      const StepReport a = whole.learner->step(4, whole.batch), b = parts.learner->step(4, parts.batch);
      EXPECT_EQ(a.sums.targets, b.sums.targets);
      EXPECT_NEAR(a.sums.loss, b.sums.loss, 1e-10 * a.sums.loss);
      EXPECT_NEAR(a.gradient_norm, b.gradient_norm, 1e-10 * a.gradient_norm);
      const auto x = whole.model.parameters().gradients().to_host<double>();
      const auto y = parts.model.parameters().gradients().to_host<double>();
      for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], y[i], 1e-11 * a.gradient_norm);
    }
  }
}

TEST(Learner, TheMeanIsOverTheTargetsOfTheBatch) {
  Config config = double_precision();
  Single mean(config);
  config.loss.reduction = Reduction::sum;
  Single sum(config);
  const StepReport a = mean.learner->step(0, mean.batch), b = sum.learner->step(0, sum.batch);
  EXPECT_EQ(a.sums.targets, 6 * 8);
  EXPECT_NEAR(a.gradient_norm * 48, b.gradient_norm, 1e-10 * b.gradient_norm);
}

TEST(Learner, ClipsTheUpdateByTheGlobalNorm) {
  Config config = double_precision();
  config.optimizer.type = OptimizerType::sgd;
  config.optimizer.momentum = 0;
  config.optimizer.clip_norm = 1e-3;
  config.schedule = {};
  Single single(config);
  const auto before = single.model.parameters().values().to_host<double>();
  const StepReport report = single.learner->step(0, single.batch);
  const auto after = single.model.parameters().values().to_host<double>();
  double moved = 0;
  for (size_t i = 0; i < before.size(); ++i) moved += std::pow(after[i] - before[i], 2);
  EXPECT_GT(report.gradient_norm, 1e-2);
  EXPECT_NEAR(std::sqrt(moved), 1e-3 * config.optimizer.learning_rate, 1e-12);
}

TEST(Learner, TheMovingAverageFollowsTheWeights) {
  Config config = double_precision();
  config.train.ema_decay = 0.15;  // above (1 + 1) / (10 + 1) from the second update on only
  Single single(config);
  auto expected = single.model.parameters().values().to_host<double>();
  for (int64_t step = 0; step < 3; ++step) {
    single.learner->step(step + 1, single.batch);
    const double decay = std::min(0.15, static_cast<double>(step + 2) / static_cast<double>(step + 11));
    const auto values = single.model.parameters().values().to_host<double>();
    for (size_t i = 0; i < values.size(); ++i) expected[i] = decay * expected[i] + (1 - decay) * values[i];
  }
  const auto average = single.learner->collect_average().to_host<double>();
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(average[i], expected[i], 1e-13);

  const auto values = single.model.parameters().values().to_host<double>();
  {
    const AveragedWeights averaged(*single.learner);
    EXPECT_EQ(single.model.parameters().values().to_host<double>(), average);
  }
  EXPECT_EQ(single.model.parameters().values().to_host<double>(), values);
}

TEST(Learner, NamesTheFirstOperationThatIsNotFinite) {
  Single single(tiny_config());
  const ParameterStore& store = single.model.parameters();
  const Tensor weight = store.value(*store.find("self.0.mlp.1.weight"));
  weight.as<float>()[3] = std::numeric_limits<float>::infinity();
  const auto before = store.values().to_host<float>();
  const StepReport report = single.learner->step(0, single.batch);
  EXPECT_FALSE(report.finite);
  EXPECT_THAT(report.offender, HasSubstr("forward of feed_forward in self.0"));
  EXPECT_EQ(store.values().to_host<float>(), before);
  EXPECT_EQ(single.learner->updates(), 0);
}

}  // namespace
}  // namespace perceiver
