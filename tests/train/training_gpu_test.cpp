// Training on the GPU: against the CPU in double, recorded and not, in parts, from checkpoint to checkpoint.
#include <gtest/gtest.h>

#include <cmath>

#include "eval/evaluator.h"
#include "kernels/fp8.h"
#include "model/model_file.h"
#include "model/precision.h"
#include "perceiver/experimental/host_values.h"
#include "tests/support/gpu.h"
#include "tests/support/small_model.h"
#include "tests/support/tiny_run.h"

namespace perceiver {
namespace {

using testing::gpu;

Config gpu_config(Precision precision) {
  Config config = tiny_config();
  config.device = "cuda";
  config.train.precision = precision;
  config.train.batch = 6;
  config.model.input_channels = 64;
  config.model.layers = 2;
  config.model.residual_dropout = 0.1;
  config.model.context_dropout = 0.2;
  config.model.latent_dropout = 0.1;
  return config;
}

struct Trained {
  std::vector<double> losses, gradient_norms, values, average;
  MemoryStatistics memory;
};

std::shared_ptr<DeviceContext> open(const Config& config) {
  return DeviceContext::open(config.device, 2);
}

/// `steps` steps with as many in flight as the learner takes.
Trained train_steps(const Config& config, int64_t steps) {
  const auto context = open(config);
  PerceiverAR model(config.model, context, apply_precision(config.train.precision, *context));
  model.parameters().initialize(config.train.seed);
  Learner learner(config, model);
  const auto data = open_dataset(config.data);
  Loader loader(*data, Split::train, config.model, config.train.batch, config.train.seed, 0);
  Trained result;
  const auto finish = [&] {
    const StepReport report = learner.finish();
    EXPECT_TRUE(report.finite) << report.offender;
    result.losses.push_back(report.sums.loss);
    result.gradient_norms.push_back(report.gradient_norm);
  };
  Batch batch;
  for (int64_t step = 0; step < steps; ++step) {
    if (learner.in_flight() == learner.capacity()) finish();
    loader.next(batch);
    learner.start(step, batch);
    if (step == 2) context->reset_peak();
  }
  while (learner.in_flight() > 0) finish();
  EXPECT_EQ(learner.updates(), steps);
  result.values = host_doubles(model.parameters().values());
  if (learner.averages()) result.average = host_doubles(learner.collect_average());
  result.memory = context->statistics();
  return result;
}

/// Whether the GPU has 8-bit tensor cores.
bool has_fp8() {
  return kernels::fp8_obstacle(gpu()->launch()) == nullptr;
}

void expect_near(const std::vector<double>& a, const std::vector<double>& b, double tolerance) {
  ASSERT_EQ(a.size(), b.size());
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  EXPECT_LE(std::sqrt(difference), tolerance * std::sqrt(size));
}

std::vector<Config> variants(Precision precision) {
  std::vector<Config> result(11, gpu_config(precision));
  result[1].model.position_encoding = PositionEncoding::absolute;
  result[1].model.position_table = PositionTable::learned;
  result[1].model.query_style = QueryStyle::mlp;
  result[2].model.extra_cross_attention_after = {0};
  result[2].model.activation = Activation::gelu;
  result[2].loss.label_smoothing = 0.1;
  result[3].train.micro_batches = 3;
  result[3].train.ema_decay = 0.99;
  result[4].model.latents_per_position = 2;
  result[4].model.position_encoding = PositionEncoding::absolute;
  result[4].model.train_input_positions = 12;
  result[4].model.query_style = QueryStyle::learned;
  result[4].loss.reduction = Reduction::sum;
  result[6].model.context_projection = ContextProjection::table;
  result[6].model.extra_cross_attention_after = {0, 1};
  result[7].model.position_encoding = PositionEncoding::absolute;
  result[7].model.position_table = PositionTable::learned;
  result[7].model.context_projection = ContextProjection::table;
  result[7].model.extra_cross_attention_after = {1};
  result[7].model.train_input_positions = 12;
  result[8].model.position_encoding = PositionEncoding::absolute;
  result[8].model.context_projection = ContextProjection::table;
  result[8].train.micro_batches = 2;
  result[9].model = testing::with_own_latent_keys(result[9].model);
  result[10].model = testing::with_repeated_reading(result[10].model);
  result[5].model.type = ModelType::transformer;
  result[5].model.cross_heads = ModelConfig().cross_heads;
  result[5].model.latents = 16;
  result[5].optimizer.type = OptimizerType::lamb;
  result[2].optimizer.type = OptimizerType::muon;
  return result;
}

TEST(Training, FollowsTheCpuInDouble) {
  SKIP_WITHOUT_GPU();
  for (Config config : variants(Precision::float32)) {
    config.optimizer.learning_rate = 1e-3;
    const Trained here = train_steps(config, 6);
    config.device = "cpu";
    config.train.precision = Precision::float64;
    const Trained there = train_steps(config, 6);
    expect_near(here.losses, there.losses, 1e-4);
    expect_near(here.gradient_norms, there.gradient_norms, 1e-3);
    expect_near(here.values, there.values, 1e-4);
    expect_near(here.average, there.average, 1e-4);
  }
}

TEST(Training, Tf32FollowsTheCpuInDouble) {
  SKIP_WITHOUT_GPU();
  for (Config config : variants(Precision::tf32)) {
    config.optimizer.learning_rate = 1e-3;
    const Trained here = train_steps(config, 6);
    config.device = "cpu";
    config.train.precision = Precision::float64;
    const Trained there = train_steps(config, 6);
    expect_near(here.losses, there.losses, 1e-3);
    expect_near(here.gradient_norms, there.gradient_norms, 1e-2);
  }
}

TEST(Training, Bfloat16FollowsTheCpuInDouble) {
  SKIP_WITHOUT_GPU();
  for (Config config : variants(Precision::bfloat16)) {
    config.optimizer.learning_rate = 1e-3;
    const Trained here = train_steps(config, 6);
    config.device = "cpu";
    config.train.precision = Precision::float64;
    const Trained there = train_steps(config, 6);
    expect_near(here.losses, there.losses, 1e-2);
    expect_near(here.gradient_norms, there.gradient_norms, 5e-2);
  }
}

TEST(Training, Fp8FollowsTheCpuInDouble) {
  SKIP_WITHOUT_GPU();
  if (!has_fp8()) {
    EXPECT_THROW(apply_precision(Precision::fp8, *gpu()), Error);
    return;
  }
  for (Config config : variants(Precision::fp8)) {
    config.optimizer.learning_rate = 1e-3;
    const Trained here = train_steps(config, 6);
    config.device = "cpu";
    config.train.precision = Precision::float64;
    const Trained there = train_steps(config, 6);
    expect_near(here.losses, there.losses, 2e-2);
    expect_near(here.gradient_norms, there.gradient_norms, 0.1);
  }
}

TEST(Training, Fp8IsNotBfloat16) {
  SKIP_WITHOUT_GPU();
  if (!has_fp8()) {
    EXPECT_THROW(apply_precision(Precision::fp8, *gpu()), Error);
    return;
  }
  EXPECT_NE(train_steps(gpu_config(Precision::fp8), 3).losses,
            train_steps(gpu_config(Precision::bfloat16), 3).losses);
}

TEST(Training, Bfloat16MomentsFollowTheCpu) {
  SKIP_WITHOUT_GPU();
  Config config = gpu_config(Precision::float32);
  config.optimizer.state = OptimizerState::bfloat16;
  const Trained here = train_steps(config, 6);
  config.device = "cpu";
  const Trained there = train_steps(config, 6);
  expect_near(here.losses, there.losses, 1e-3);
  expect_near(here.values, there.values, 1e-3);
}

TEST(Training, RecordedStepsAreBitwiseThePlainOnes) {
  SKIP_WITHOUT_GPU();
  for (const Precision precision :
       {Precision::bfloat16, Precision::float32, Precision::tf32, Precision::fp8}) {
    if (precision == Precision::fp8 && !has_fp8()) continue;
    for (Config config : variants(precision)) {
      const Trained recorded = train_steps(config, 7);
      config.train.cuda_graph = false;
      const Trained plain = train_steps(config, 7);
      EXPECT_EQ(recorded.losses, plain.losses);
      EXPECT_EQ(recorded.gradient_norms, plain.gradient_norms);
      EXPECT_EQ(recorded.values, plain.values);
      EXPECT_EQ(recorded.average, plain.average);
    }
  }
}

TEST(Training, RecomputeIsBitwiseTheSame) {
  SKIP_WITHOUT_GPU();
  for (const Precision precision : {Precision::bfloat16, Precision::float32, Precision::fp8}) {
    if (precision == Precision::fp8 && !has_fp8()) continue;
    for (Config config : variants(precision)) {
      const Trained stored = train_steps(config, 4);
      for (const Recompute recompute : {Recompute::block, Recompute::attention_mlp}) {
        config.train.recompute = recompute;
        const Trained again = train_steps(config, 4);
        EXPECT_EQ(stored.losses, again.losses);
        EXPECT_EQ(stored.values, again.values);
      }
    }
  }
}

TEST(Training, RepeatsBitByBit) {
  SKIP_WITHOUT_GPU();
  const Config config = gpu_config(Precision::bfloat16);
  const Trained first = train_steps(config, 5);
  for (int run = 1; run < 100; ++run) {
    const Trained again = train_steps(config, 5);
    ASSERT_EQ(first.losses, again.losses);
    ASSERT_EQ(first.values, again.values);
  }
}

TEST(Training, AllocatesNothingAfterTheFirstSteps) {
  SKIP_WITHOUT_GPU();
  for (const bool graph : {true, false}) {
    Config config = gpu_config(Precision::bfloat16);
    config.train.cuda_graph = graph;
    config.train.micro_batches = 2;
    const int64_t few = train_steps(config, 3).memory.system_allocations;
    EXPECT_EQ(train_steps(config, 12).memory.system_allocations, few);
  }
}

TEST(Training, AStepThatIsNotFiniteChangesNothing) {
  SKIP_WITHOUT_GPU();
  const Config config = gpu_config(Precision::bfloat16);
  const auto context = open(config);
  PerceiverAR model(config.model, context, DType::bf16);
  model.parameters().initialize(1);
  Learner learner(config, model);
  const auto data = open_dataset(config.data);
  const Batch batch = Loader(*data, Split::train, config.model, config.train.batch, 0, 0).next();
  EXPECT_TRUE(learner.step(0, batch).finite);
  std::vector<float> values = model.parameters().values().to_host<float>();
  const std::vector<float> good = values;
  values[static_cast<size_t>(model.parameters().find("self.0.mlp.0.bias")->offset)] =
      std::numeric_limits<float>::quiet_NaN();
  model.parameters().values().copy_from_host(std::as_bytes(std::span<const float>(values)));
  model.parameters().publish();
  for (int64_t step = 1; step < 4; ++step) {
    const StepReport report = learner.step(step, batch);
    EXPECT_FALSE(report.finite);
    EXPECT_NE(report.offender.find("forward of feed_forward in self.0"), std::string::npos)
        << report.offender;
    EXPECT_EQ(learner.updates(), 1);
  }
  model.parameters().values().copy_from_host(std::as_bytes(std::span<const float>(good)));
  model.parameters().publish();
  EXPECT_TRUE(learner.step(4, batch).finite);
  EXPECT_EQ(learner.updates(), 2);
}

TEST(Training, CheckpointsMoveBetweenDevices) {
  SKIP_WITHOUT_GPU();
  const TempFolder folder;
  Config config = gpu_config(Precision::bfloat16);
  config.train.steps = 6;
  config.checkpoint.every = 3;
  config.checkpoint.keep = 5;
  Recorder whole;
  train(config, folder.path("gpu"), false, &whole);
  config.device = "cpu";
  config.train.precision = Precision::float32;
  config.train.steps = 9;
  Recorder on_cpu;
  EXPECT_EQ(train(config, folder.path("gpu"), true, &on_cpu).step, 9);
  config.device = "cuda";
  config.train.precision = Precision::bfloat16;
  config.train.steps = 12;
  Recorder back;
  EXPECT_EQ(train(config, folder.path("gpu"), true, &back).step, 12);
  // A run that never left the GPU goes the same way: the masks of dropout are the same on both.
  Recorder stayed;
  train(config, folder.path("stayed"), false, &stayed);
  ASSERT_EQ(on_cpu.logs.size(), 3u);
  ASSERT_EQ(back.logs.size(), 3u);
  for (size_t i = 0; i < 12; ++i) {
    const LogEntry& moved = i < 6 ? whole.logs[i] : i < 9 ? on_cpu.logs[i - 6] : back.logs[i - 9];
    EXPECT_EQ(moved.step, stayed.logs[i].step);
    EXPECT_NEAR(moved.loss, stayed.logs[i].loss, 0.02 * stayed.logs[i].loss) << "step " << moved.step;
  }

  const auto data = open_dataset(config.data);
  const auto score = [&](const std::shared_ptr<DeviceContext>& context, DType type) {
    const LoadedModel loaded = load_model(find_model_file(folder.path("gpu")), context, type);
    EvaluationOptions options;
    options.max_documents = 20;
    return evaluate(*loaded.model, *data, Split::validation, options).nats_per_token();
  };
  const double exact = score(DeviceContext::cpu(1), DType::f64);
  EXPECT_NEAR(score(gpu(), DType::f32), exact, 1e-4 * exact);
  EXPECT_NEAR(score(gpu(), DType::bf16), exact, 2e-2 * exact);
}

TEST(Training, AStoppedRunResumesBitwise) {
  SKIP_WITHOUT_GPU();
  for (const Precision precision : {Precision::bfloat16, Precision::fp8}) {
    if (precision == Precision::fp8 && !has_fp8()) continue;
    const TempFolder folder;
    Config config = gpu_config(precision);
    config.train.steps = 9;
    config.train.ema_decay = 0.9;
    if (precision == Precision::fp8) config.optimizer.state = OptimizerState::bfloat16;
    Recorder whole;
    train(config, folder.path("whole"), false, &whole);
    config.train.steps = 4;
    train(config, folder.path("parts"));
    config.train.steps = 9;
    Recorder rest;
    train(config, folder.path("parts"), true, &rest);
    ASSERT_EQ(rest.logs.size(), 5u);
    for (size_t i = 0; i < 5; ++i) EXPECT_EQ(rest.logs[i].loss, whole.logs[i + 4].loss);
    EXPECT_EQ(read_file(checkpoint_path(folder.path("parts"), 9) + "/model.safetensors", 1 << 24),
              read_file(checkpoint_path(folder.path("whole"), 9) + "/model.safetensors", 1 << 24));
  }
}

TEST(Training, SamplesDoNotAffectTheRun) {
  SKIP_WITHOUT_GPU();
  const TempFolder folder;
  for (const bool graph : {true, false}) {
    Config config = gpu_config(Precision::bfloat16);
    config.train.steps = 9;
    config.train.ema_decay = 0.9;
    config.train.cuda_graph = graph;
    const std::string name = graph ? "graph" : "plain";
    train(config, folder.path(name));
    config.train.sample_every = 2;
    config.train.sample_tokens = 40;
    train(config, folder.path(name + "_sampled"));
    EXPECT_TRUE(checkpoint_numbers(folder.path(name), 9) ==
                checkpoint_numbers(folder.path(name + "_sampled"), 9));
    EXPECT_EQ(timeless_metrics(folder.path(name)), timeless_metrics(folder.path(name + "_sampled")));
    EXPECT_TRUE(std::filesystem::exists(folder.path(name + "_sampled/samples/step-000000008.txt")));
  }
}

TEST(Training, StartsFromAModelThatTheCpuTrained) {
  SKIP_WITHOUT_GPU();
  const TempFolder folder;
  Config config = gpu_config(Precision::float32);
  config.device = "cpu";
  config.train.steps = 1;
  train(config, folder.path("source"));
  config.device = "cuda";
  config.train.precision = Precision::bfloat16;
  config.train.initialize = folder.path("source");
  config.model.vocabulary = 264;
  config.train.steps = 0;
  train(config, folder.path("run"));
  const LoadedModel a = load_model(find_model_file(folder.path("source")), DeviceContext::cpu(1), DType::f32);
  const LoadedModel b = load_model(find_model_file(folder.path("run")), DeviceContext::cpu(1), DType::f32);
  const auto embedding = [](const LoadedModel& loaded) {
    const ParameterStore& store = loaded.model->parameters();
    return store.value(*store.find("token_embedding.weight")).to_host<float>();
  };
  std::vector<float> taken = embedding(b);
  taken.resize(259 * 64);
  EXPECT_EQ(taken, embedding(a));
}

TEST(Training, TooLittleMemoryIsOneClearLine) {
  SKIP_WITHOUT_GPU();
  const auto context = gpu();
  try {
    Tensor::empty(*context, DType::f32, {int64_t{1} << 41});
    FAIL() << "8 TiB were handed out";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::failure);
    EXPECT_NE(std::string(error.what()).find("MiB on the GPU"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("train.recompute"), std::string::npos) << error.what();
  }
  const Tensor fine = Tensor::zeros(*context, DType::f32, {1000});
  EXPECT_EQ(fine.to_host<float>()[999], 0);
}

TEST(Training, PrecisionsOfTheOtherDeviceAreRefused) {
  SKIP_WITHOUT_GPU();
  EXPECT_THROW(apply_precision(Precision::float64, *gpu()), Error);
  EXPECT_THROW(DeviceContext::cuda(1000), Error);
}

}  // namespace
}  // namespace perceiver
