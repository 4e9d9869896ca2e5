// The attention kernels that model.attention can choose, in training on a GPU: each against auto.
#include <gmock/gmock.h>

#include "model/attention_backend.h"
#include "ops/attention_launch.h"
#include "perceiver/experimental/host_values.h"
#include "tests/support/gpu.h"
#include "tests/support/small_model.h"
#include "tests/support/tiny_run.h"

namespace perceiver {
namespace {

using testing::gpu;

ModelConfig gpu_model(AttentionBackend backend) {
  ModelConfig config = testing::small_model();
  config.context_length = 256;
  config.latents = 128;
  config.input_channels = config.latent_channels = 128;
  config.residual_dropout = 0;
  config.attention = backend;
  return config;
}

/// Whether this GPU has it.
bool available(AttentionBackend backend, DeviceContext& context) {
  return kernels::attention_obstacle(context.launch(), ops::attention_kernel(backend), DType::bf16, 64) ==
         nullptr;
}

double relative_error(const std::vector<double>& actual, const std::vector<double>& expected) {
  EXPECT_EQ(actual.size(), expected.size());
  double difference = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return std::sqrt(difference / size);
}

/// Loss and gradients of a training pass.
testing::Pass run(PerceiverAR& model, const Batch& batch) {
  const PassOptions options{0, true, {3, 5, 0, 0}};
  const ModelInputs inputs = model.prepare(batch, options);
  model.parameters().start_gradients();
  Tape tape(model.context(), true, true, options.random);
  const ops::LossResult result = model.loss(tape, inputs, {}, Recompute::none);
  tape.backward();
  model.parameters().finish_gradients();
  return {host_doubles(result.totals)[0], host_doubles(model.parameters().gradients())};
}

testing::Pass pass_with(AttentionBackend backend) {
  const ModelConfig config = gpu_model(backend);
  PerceiverAR model(config, gpu(), DType::bf16);
  check_attention_backend(config, model.context(), DType::bf16);
  model.parameters().initialize(1);
  return run(model, testing::random_batch(config, 4, 2, false));
}

void expect_as_auto(AttentionBackend backend) {
  const testing::Pass expected = pass_with(AttentionBackend::automatic), actual = pass_with(backend);
  EXPECT_NEAR(actual.loss, expected.loss, 1e-3 * std::abs(expected.loss));
  EXPECT_LT(relative_error(actual.gradients, expected.gradients), 0.03);
}

struct Trained {
  std::vector<double> losses;
  int64_t system_allocations;
};

/// Steps of the learner on full rows.
Trained train_steps(AttentionBackend backend, bool cuda_graph, int64_t steps) {
  Config config = tiny_config();
  config.model = gpu_model(backend);
  config.train.cuda_graph = cuda_graph;
  config.train.micro_batches = 2;
  config.optimizer.learning_rate = 1e-3;
  const auto context = gpu();
  PerceiverAR model(config.model, context, DType::bf16);
  model.parameters().initialize(1);
  Learner learner(config, model);
  Trained result{};
  for (int64_t step = 0; step < steps; ++step) {
    const Batch batch = testing::random_batch(config.model, 4, static_cast<uint32_t>(step), false);
    result.losses.push_back(learner.step(step, batch).sums.loss);
  }
  result.system_allocations = context->statistics().system_allocations;
  return result;
}

TEST(GpuAttentionBackend, EachComputesWhatAutoComputes) {
  SKIP_WITHOUT_GPU();
  for (const auto backend :
       {AttentionBackend::reference, AttentionBackend::portable, AttentionBackend::hopper}) {
    SCOPED_TRACE(static_cast<int>(backend));
    if (available(backend, *gpu())) expect_as_auto(backend);
  }
}

TEST(GpuAttentionBackend, CudnnComputesWhatAutoComputes) {
  SKIP_WITHOUT_GPU();
  if (!available(AttentionBackend::cudnn, *gpu())) GTEST_SKIP() << "no cuDNN";
  expect_as_auto(AttentionBackend::cudnn);
}

TEST(GpuAttentionBackend, CudnnTrainsInRecordedSteps) {
  SKIP_WITHOUT_GPU();
  if (!available(AttentionBackend::cudnn, *gpu())) GTEST_SKIP() << "no cuDNN";
  const Trained expected = train_steps(AttentionBackend::automatic, true, 8);
  for (const bool graph : {true, false}) {
    const Trained actual = train_steps(AttentionBackend::cudnn, graph, 8);
    EXPECT_LT(relative_error(actual.losses, expected.losses), 1e-2);
    EXPECT_EQ(train_steps(AttentionBackend::cudnn, graph, 3).system_allocations, actual.system_allocations);
  }
}

TEST(GpuAttentionBackend, CudnnRefusesWhatItCannotTake) {
  SKIP_WITHOUT_GPU();
  if (!available(AttentionBackend::cudnn, *gpu())) GTEST_SKIP() << "no cuDNN";
  const ModelConfig config = gpu_model(AttentionBackend::cudnn);
  PerceiverAR model(config, gpu(), DType::bf16);
  model.parameters().initialize(1);
  Batch batch = testing::random_batch(config, 4, 2, true);
  EXPECT_THAT(error_of(ErrorKind::user, [&] { run(model, batch); }),
              ::testing::HasSubstr("use model.attention: auto"));
  EXPECT_NO_THROW(model.logits(model.prepare(batch, {})));  // evaluation takes auto
  EXPECT_THAT(
      error_of(ErrorKind::user, [&] { check_attention_backend(config, model.context(), DType::f32); }),
      ::testing::HasSubstr("bfloat16"));
}

TEST(GpuAttentionBackend, HopperRefusesOtherWidthsAndTypes) {
  SKIP_WITHOUT_GPU();
  const auto context = gpu();
  ModelConfig config = gpu_model(AttentionBackend::hopper);
  EXPECT_THROW(check_attention_backend(config, *context, DType::f32), Error);
  config.self_heads = 32;
  EXPECT_THROW(check_attention_backend(config, *context, DType::bf16), Error);
}

}  // namespace
}  // namespace perceiver
