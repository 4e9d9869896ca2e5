// Transformer-XL: gradients by finite differences with dropout, recomputation, what a memory changes.
#include <gtest/gtest.h>

#include "config/validate.h"
#include "model/segment_memory.h"
#include "tests/support/generation_model.h"
#include "tests/support/recurrent_model.h"
#include "tests/support/small_model.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::recurrent_config;

std::vector<ModelConfig> recurrent_variants() {
  std::vector<ModelConfig> configs(5, recurrent_config());
  configs[1].norm_first = true;
  configs[1].zero_memory = true;
  configs[2].shared_biases = false;
  configs[2].latent_channels = 12;
  configs[2].input_channels = 10;
  configs[2].head_channels = 5;
  configs[2].mlp_channels = 7;
  configs[3].clamp_length = 2;
  configs[3].same_length = true;
  configs[4].tied_output = false;
  configs[4].zero_initial_logits = false;
  configs[4].output_norm = true;
  for (ModelConfig& config : configs) {
    config.vocabulary = 13;
    config.residual_dropout = 0.2;
    config.attention_dropout = 0.1;
    config.activation = Activation::gelu;
  }
  return configs;
}

TEST(TransformerXL, GradientsByFiniteDifferences) {
  for (const ModelConfig& config : recurrent_variants()) testing::check_model(config);
}

TEST(TransformerXL, RecomputationIsBitwiseTheSame) {
  for (const ModelConfig& config : recurrent_variants()) {
    PerceiverAR model(config, DeviceContext::cpu(2), DType::f64);
    model.parameters().initialize(1);
    const Batch batch = testing::random_batch(config, 3, 4);
    const testing::Pass plain = testing::run(model, batch, Recompute::none);
    for (const Recompute recompute : {Recompute::block, Recompute::attention_mlp}) {
      const testing::Pass pass = testing::run(model, batch, recompute);
      EXPECT_EQ(pass.loss, plain.loss);
      EXPECT_EQ(pass.gradients, plain.gradients);
    }
  }
}

/// Two segments with a memory, of which backward sees the second: no gradient flows into the first.
TEST(TransformerXL, RowsBeyondTheMemoryAreNotRead) {
  const auto model = testing::varied_model(recurrent_config());
  const ModelConfig& config = model->config();
  SegmentMemory memory = SegmentMemory::make(model->context(), DType::f64, config, 2, config.memory_length);
  PassOptions options;
  options.memory = &memory;
  Batch batch = testing::random_batch(config, 2, 5, false);
  batch.preceding = {0, 3};
  const std::vector<double> zero = host_doubles(model->logits(model->prepare(batch, options)));
  fill(memory.hidden, [&](int64_t i) {
    const int64_t row = i / config.z_channels() % config.memory_length,
                  stream = i / config.z_channels() / config.memory_length % 2;
    return stream == 0 || row < config.memory_length - 3 ? 1e30 : 0.0;
  });
  EXPECT_EQ(host_doubles(model->logits(model->prepare(batch, options))), zero);
  batch.preceding = {0, 4};
  EXPECT_NE(host_doubles(model->logits(model->prepare(batch, options))), zero);
}

TEST(TransformerXL, ConfigurationsThatCannotBe) {
  const auto refusal = [](const std::function<void(ModelConfig&)>& change) {
    ModelConfig config = recurrent_config();
    change(config);
    return message_of([&] { validate(config, "x"); });
  };
  validate(recurrent_config(), "x");
  EXPECT_NE(refusal([](ModelConfig& c) {
              c.memory_length = 0, c.same_length = true;
            }).find("memory_length above 0"),
            std::string::npos);
  EXPECT_NE(refusal([](ModelConfig& c) {
              c.position_encoding = PositionEncoding::absolute;
            }).find("relative positions"),
            std::string::npos);
  EXPECT_NE(refusal([](ModelConfig& c) {
              c.latent_channels = c.input_channels = 15, c.self_heads = 3;
            }).find("even"),
            std::string::npos);
  EXPECT_NE(refusal([](ModelConfig& c) {
              c.type = ModelType::transformer, c.output_norm = true;
            }).find("are for model.type: transformer_xl"),
            std::string::npos);
}

}  // namespace
}  // namespace perceiver
