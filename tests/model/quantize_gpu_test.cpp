// Models with weights of eight bits on a GPU: what they compute, hold and write.
#include <gtest/gtest.h>

#include <cstring>

#include "model/model_file.h"
#include "perceiver/error.h"
#include "perceiver/experimental/host_values.h"
#include "tests/support/generation_model.h"
#include "tests/support/gpu.h"
#include "tests/support/small_model.h"
#include "tests/support/temp_folder.h"

namespace perceiver {
namespace {

using namespace testing;

constexpr std::pair<Weights, DType> kTypes[] = {{Weights::int8, DType::i8}, {Weights::fp8, DType::e4m3}};

ModelMetadata metadata_of(const ModelConfig& config) {
  ModelMetadata metadata;
  metadata.model = config;
  return metadata;
}

/// A file of a model with these weights, made on the CPU.
std::string write_file(const TempFolder& folder, const ModelConfig& config, Weights weights) {
  const auto model = varied_model(config, DType::f32);
  model->set_weights(weights);
  const std::string path = folder.path(weights == Weights::int8 ? "int8" : "fp8");
  save_model(path, *model, metadata_of(config));
  return path;
}

std::unique_ptr<PerceiverAR> load(const std::string& path, DType type, Weights weights = Weights::automatic) {
  return load_model(path, gpu(), type, true, weights).model;
}

std::vector<double> logits_of(const PerceiverAR& model, const Batch& batch) {
  return host_doubles(model.logits(model.prepare(batch, {})));
}

std::vector<double> losses_of(const PerceiverAR& model, const Batch& batch) {
  Tape tape(model.context(), false);
  return host_doubles(model.loss(tape, model.prepare(batch, {}), {}, Recompute::none).nll);
}

std::vector<ModelConfig> configurations() {
  ModelConfig absolute = generation_config();
  absolute.position_encoding = PositionEncoding::absolute;
  ModelConfig projected = generation_config(), direct = generation_config();
  projected.context_projection = ContextProjection::table;
  direct.context_projection = ContextProjection::direct;
  return {projected, direct, absolute, with_own_latent_keys(small_model())};
}

/// Passes over many rows make the weights that the file's would become; sums may have another order.
TEST(Quantize, PassesOnAGpuAreThoseOfTheDequantizedWeights) {
  SKIP_WITHOUT_GPU();
  const TempFolder folder;
  for (const ModelConfig& config : configurations())
    for (const auto& [weights, weight_type] : kTypes) {
      const std::string path = write_file(folder, config, weights);
      const Batch batch = random_batch(config, 2, 1, false);
      for (const DType type : {DType::f32, DType::bf16}) {
        const auto narrow = load(path, type);
        const auto wide = load(path, type, type == DType::f32 ? Weights::float32 : Weights::bfloat16);
        EXPECT_EQ(narrow->weight_type(), weight_type);
        EXPECT_EQ(wide->weight_type(), type);
        const double tolerance = type == DType::f32 ? 1e-5 : 1e-2;
        EXPECT_LE(difference(logits_of(*narrow, batch), logits_of(*wide, batch)), tolerance)
            << name_of(weight_type);
        EXPECT_LE(difference(losses_of(*narrow, batch), losses_of(*wide, batch)), tolerance)
            << name_of(weight_type);
      }
    }
}

/// Rounding on the GPU's side of loading gives the file that the CPU writes.
TEST(Quantize, WeightsRoundedOnAGpuAreThoseOfTheFile) {
  SKIP_WITHOUT_GPU();
  const TempFolder folder;
  for (const ModelConfig& config : configurations())
    for (const auto& [weights, type] : kTypes) {
      const auto model = varied_model(config, DType::bf16, gpu());
      const auto master = varied_model(config, DType::f32);
      model->set_weights(weights);
      master->set_weights(weights);
      save_model(folder.path("gpu"), *model, metadata_of(config));
      save_model(folder.path("cpu"), *master, metadata_of(config));
      const SafetensorsFile a = SafetensorsFile::open(folder.path("gpu")),
                            b = SafetensorsFile::open(folder.path("cpu"));
      ASSERT_EQ(a.entries().size(), b.entries().size());
      for (const SafetensorsEntry& entry : a.entries()) {
        const SafetensorsEntry* const other = b.find(entry.name);
        ASSERT_NE(other, nullptr) << entry.name;
        EXPECT_EQ(entry.dtype, other->dtype);
        const auto x = a.bytes(entry), y = b.bytes(*other);
        EXPECT_TRUE(std::equal(x.begin(), x.end(), y.begin(), y.end())) << entry.name;
      }
    }
}

/// A model of which nearly everything is linear layers holds little more than a byte a weight.
TEST(Quantize, AGpuHoldsNoOtherWeights) {
  SKIP_WITHOUT_GPU();
  const TempFolder folder;
  ModelConfig config = generation_config();
  config.input_channels = config.latent_channels = 512;
  config.layers = 4;
  for (const auto& [weights, type] : kTypes) {
    const std::string path = write_file(folder, config, weights);
    const auto context = DeviceContext::cuda();
    const MemoryStatistics before = context->statistics();
    const auto model = load_model(path, context, DType::bf16).model;
    const MemoryStatistics after = context->statistics();
    const int64_t count = model->parameters().count();
    EXPECT_LT(after.live_bytes - before.live_bytes, count * 5 / 4) << name_of(type);
    EXPECT_LT(after.reserved_bytes - before.reserved_bytes, count * 5 / 4) << name_of(type);
  }
}

TEST(Quantize, WhatAGpuCannotDoIsSaid) {
  SKIP_WITHOUT_GPU();
  const auto model = varied_model(generation_config(), DType::bf16, gpu());
  EXPECT_THROW(model->set_weights(Weights::float32), Error);
  model->set_weights(Weights::bfloat16);  // as they are
  EXPECT_EQ(model->weight_type(), DType::bf16);
  model->set_weights(Weights::fp8);
  for (const Weights other : {Weights::int8, Weights::bfloat16, Weights::float32})
    EXPECT_THROW(model->set_weights(other), Error);
  model->set_weights(Weights::fp8);
  const Batch batch = random_batch(model->config(), 2, 1, false);
  Tape training(model->context(), true);
  EXPECT_THROW(model->loss(training, model->prepare(batch, {}), {}, Recompute::none), Error);
}

}  // namespace
}  // namespace perceiver
