// The estimate against what the allocator counted in real steps.
#include "train/memory_estimate.h"

#include <gtest/gtest.h>

#include "data/batches/loader.h"
#include "tests/support/tiny_run.h"
#include "train/open_run.h"

namespace perceiver {
namespace {

/// Large enough that activations matter, small enough for a test.
Config base() {
  Config config = tiny_config(2);
  config.model.context_length = 256;
  config.model.latents = 64;
  config.model.input_channels = 32;
  config.model.layers = 3;
  config.model.cross_widening = config.model.self_widening = 4;
  config.data.copy_length = 256;
  config.train.batch = 8;
  return config;
}

struct Case {
  const char* name;
  void (*change)(Config&);
};

class Estimate : public testing::TestWithParam<Case> {};

/// `fp8`: the model computes as configured, its training in 8 bits.
void expect_what_the_allocator_counts(Config config, bool fp8) {
  config = resolved(config);
  const auto context = open_device(config);
  const auto data = open_fitting(config);
  const auto model = make_model(config, context);
  model->parameters().initialize(1);
  if (fp8) config.train.precision = Precision::fp8;
  Learner learner(config, *model);
  const MemoryEstimate estimate = estimate_memory(config, *model, learner);
  Loader loader(*data, Split::train, config.model, config.train.batch, 1, 0);
  Batch batch;
  for (int64_t step = 0; step < 2; ++step) {
    loader.next(batch);
    learner.step(step, batch);
  }
  const auto counted = static_cast<double>(context->statistics().peak_bytes);
  EXPECT_NEAR(static_cast<double>(estimate.total()) / counted, 1, 0.12) << counted;
}

TEST_P(Estimate, IsWhatTheAllocatorCounts) {
  Config config = base();
  GetParam().change(config);
  expect_what_the_allocator_counts(config, false);
}

TEST(MemoryEstimate, CountsTheCopiesInFp8) {
  Config config = base();
  config.model.layers = 12;
  expect_what_the_allocator_counts(config, true);
}

INSTANTIATE_TEST_SUITE_P(
    Models, Estimate,
    testing::Values(
        Case{"plain", [](Config&) {}}, Case{"deep", [](Config& c) { c.model.layers = 12; }},
        Case{"table", [](Config& c) { c.model.context_projection = ContextProjection::table; }},
        Case{"direct", [](Config& c) { c.model.context_projection = ContextProjection::direct; }},
        Case{"few_latents", [](Config& c) { c.model.latents = 8; }},
        Case{"long_context_direct",
             [](Config& c) {
               c.model.latents = 8;
               c.model.context_projection = ContextProjection::direct;
             }},
        Case{"transformer",
             [](Config& c) {
               c.model.type = ModelType::transformer;
               c.model.cross_heads = ModelConfig().cross_heads;
               c.model.latents = c.model.context_length;
             }},
        Case{"transformer_xl",
             [](Config& c) {
               c.model.type = ModelType::transformer_xl;
               c.model.cross_heads = ModelConfig().cross_heads;
               c.model.latents = c.model.context_length;
               c.model.memory_length = c.model.context_length;
               c.model.tied_output = true;
             }},
        Case{"recompute_block", [](Config& c) { c.train.recompute = Recompute::block; }},
        Case{"recompute_branches", [](Config& c) { c.train.recompute = Recompute::attention_mlp; }},
        Case{"micro_batches", [](Config& c) { c.train.micro_batches = 4; }},
        Case{"averaged_sgd",
             [](Config& c) {
               c.optimizer.type = OptimizerType::sgd;
               c.train.ema_decay = 0.9;
             }},
        Case{"wide_latents", [](Config& c) { c.model.latent_channels = 64; }},
        Case{"absolute", [](Config& c) { c.model.position_encoding = PositionEncoding::absolute; }},
        Case{"gelu", [](Config& c) { c.model.activation = Activation::gelu; }},
        Case{"double", [](Config& c) { c.train.precision = Precision::float64; }}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(MemoryEstimate, KnowsItsOwnProcess) {
  EXPECT_GT(resident_bytes(), 1 << 20);
  EXPECT_GE(peak_resident_bytes(), resident_bytes());
}

}  // namespace
}  // namespace perceiver
