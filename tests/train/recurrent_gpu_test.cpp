// Transformer-XL on a GPU: training against the CPU in double, recorded steps, generation.
#include <gtest/gtest.h>

#include <cmath>

#include "generate/engine.h"
#include "model/precision.h"
#include "perceiver/experimental/host_values.h"
#include "tests/support/generation_model.h"
#include "tests/support/gpu.h"
#include "tests/support/recurrent_model.h"
#include "tests/support/tiny_run.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

struct RecurrentTrained {
  std::vector<double> losses, values, memory;
};

Config recurrent_gpu_config(Precision precision) {
  Config config = tiny_config();
  config.device = "cuda";
  config.model = testing::recurrent_config();
  config.model.vocabulary = 259;
  config.model.input_channels = config.model.latent_channels = 64;
  config.model.residual_dropout = 0.1;
  config.train.precision = precision;
  config.train.batch = 6;
  config.optimizer.learning_rate = 1e-3;
  return config;
}

RecurrentTrained train_recurrent(const Config& config, int64_t steps) {
  const auto context = DeviceContext::open(config.device, 2);
  PerceiverAR model(config.model, context, apply_precision(config.train.precision, *context));
  model.parameters().initialize(config.train.seed);
  Learner learner(config, model);
  const auto data = open_dataset(config.data);
  Loader loader(*data, Split::train, config.model, config.train.batch, config.train.seed, 0);
  RecurrentTrained result;
  Batch batch;
  const auto finish = [&] {
    const StepReport report = learner.finish();
    EXPECT_TRUE(report.finite) << report.offender;
    result.losses.push_back(report.sums.loss);
  };
  for (int64_t step = 0; step < steps; ++step) {
    if (learner.in_flight() == learner.capacity()) finish();
    loader.next(batch);
    learner.start(step, batch);
  }
  while (learner.in_flight() > 0) finish();
  result.values = host_doubles(model.parameters().values());
  for (const NamedTensor& each : learner.collect_memory())
    for (const double value : host_doubles(each.tensor)) result.memory.push_back(value);
  return result;
}

std::vector<Config> recurrent_gpu_variants(Precision precision) {
  std::vector<Config> configs(4, recurrent_gpu_config(precision));
  configs[1].model.norm_first = configs[1].model.zero_memory = true;
  configs[1].train.micro_batches = 3;
  configs[2].model.clamp_length = 4;
  configs[2].model.same_length = true;
  configs[2].model.attention_dropout = 0.1;
  configs[3].model.shared_biases = false;
  configs[3].model.input_channels = 32;
  configs[3].model.head_channels = 40;
  configs[3].train.recompute = Recompute::block;
  return configs;
}

void expect_norm_near(const std::vector<double>& a, const std::vector<double>& b, double tolerance) {
  ASSERT_EQ(a.size(), b.size());
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  EXPECT_LE(std::sqrt(difference), tolerance * std::sqrt(size));
}

TEST(RecurrentOnGpu, FollowsTheCpuInDouble) {
  SKIP_WITHOUT_GPU();
  for (Config config : recurrent_gpu_variants(Precision::float32)) {
    const RecurrentTrained here = train_recurrent(config, 6);
    config.device = "cpu";
    config.train.precision = Precision::float64;
    const RecurrentTrained there = train_recurrent(config, 6);
    expect_norm_near(here.losses, there.losses, 1e-4);
    expect_norm_near(here.values, there.values, 1e-3);
    expect_norm_near(here.memory, there.memory, 1e-3);
  }
}

TEST(RecurrentOnGpu, Bfloat16FollowsTheCpuInDouble) {
  SKIP_WITHOUT_GPU();
  for (Config config : recurrent_gpu_variants(Precision::bfloat16)) {
    const RecurrentTrained here = train_recurrent(config, 6);
    config.device = "cpu";
    config.train.precision = Precision::float64;
    const RecurrentTrained there = train_recurrent(config, 6);
    expect_norm_near(here.losses, there.losses, 1e-2);
    expect_norm_near(here.memory, there.memory, 5e-2);
  }
}

TEST(RecurrentOnGpu, RecordedStepsAreThePlainOnes) {
  SKIP_WITHOUT_GPU();
  for (Config config : recurrent_gpu_variants(Precision::bfloat16)) {
    const RecurrentTrained recorded = train_recurrent(config, 8);
    config.train.cuda_graph = false;
    const RecurrentTrained plain = train_recurrent(config, 8);
    EXPECT_EQ(recorded.losses, plain.losses);
    EXPECT_EQ(recorded.values, plain.values);
    EXPECT_EQ(recorded.memory, plain.memory);
  }
}

TEST(RecurrentOnGpu, RefusesHeadsThatAreTooWide) {
  SKIP_WITHOUT_GPU();
  Config config = recurrent_gpu_config(Precision::bfloat16);
  config.model.head_channels = 136;
  EXPECT_NE(message_of([&] { train_recurrent(config, 1); }).find("heads of 136 channels"), std::string::npos);
}

TEST(RecurrentOnGpu, GenerationFollowsTheCpu) {
  SKIP_WITHOUT_GPU();
  for (const bool norm_first : {false, true}) {
    ModelConfig config = testing::recurrent_config();
    config.norm_first = norm_first;
    config.input_channels = config.latent_channels = 64;
    const auto there = testing::varied_model(config, DType::f64),
               here = testing::varied_model(config, DType::f32, testing::gpu());
    Engine expected(*there, {}), actual(*here, {});
    for (Engine* engine : {&expected, &actual}) {
      Sequence sequence;
      sequence.tokens = testing::prompt_of(9);
      engine->admit(0, sequence);
    }
    for (int step = 0; step < 30; ++step) {
      expected.compute();
      actual.compute();
      const std::vector<double> logits = expected.logits(0);
      ASSERT_LE(testing::difference(actual.logits(0), logits), 5e-4) << step;
      expected.push(0, testing::greedy(logits));
      actual.push(0, testing::greedy(logits));
    }
  }
}

}  // namespace
}  // namespace perceiver
