// Keys and values from projected tables against the direct path, and which of the two is chosen.
#include "model/projection.h"

#include <gtest/gtest.h>

#include "perceiver/experimental/host_values.h"
#include "tests/support/context_model.h"
#include "tests/support/small_model.h"

namespace perceiver {
namespace {

using testing::ContextModel;
using testing::distance;
using testing::kChannels;
using testing::kColumns;
using testing::kExamples;
using testing::KeysAndValues;

using testing::check_model;
using testing::cpu;
using testing::Pass;
using testing::random_batch;
using testing::random_tensor;
using testing::run;
using testing::small_model;

/// Both paths with one model and batch: the same numbers up to rounding, but not bit for bit.
void expect_agreement(ModelConfig config, const PassOptions& options = {0, true, {3, 5, 0, 0}}) {
  for (const Recompute recompute : {Recompute::none, Recompute::block}) {
    PerceiverAR model(config, DeviceContext::cpu(2), DType::f64);
    model.parameters().initialize(1);
    const Batch batch = random_batch(config, 3, 4);
    const auto logits = [&] {
      return host_doubles(model.logits(model.prepare(batch, {options.latents, false, {}})));
    };
    model.set_context_projection(ContextProjection::direct);
    const Pass direct = run(model, batch, recompute, true, options);
    const std::vector<double> direct_logits = logits();
    model.set_context_projection(ContextProjection::table);
    const Pass table = run(model, batch, recompute, true, options);
    const std::vector<double> table_logits = logits();
    EXPECT_NE(direct.gradients, table.gradients);
    EXPECT_NEAR(direct.loss, table.loss, 1e-12 * direct.loss);
    ASSERT_EQ(direct_logits.size(), table_logits.size());
    double largest = 0;
    for (const double x : direct_logits) largest = std::max(largest, std::abs(x));
    for (size_t i = 0; i < direct_logits.size(); ++i)
      ASSERT_NEAR(direct_logits[i], table_logits[i], 1e-12 * largest) << i;
    double all = 0;
    for (const double x : direct.gradients) all = std::hypot(all, x);
    for (const ParameterInfo& info : model.parameters().infos()) {
      double difference = 0, size = 0;
      for (int64_t i = info.offset; i < info.offset + info.elements(); ++i) {
        const auto place = static_cast<size_t>(i);
        difference = std::hypot(difference, direct.gradients[place] - table.gradients[place]);
        size = std::hypot(size, direct.gradients[place]);
      }
      // Gradients that vanish by symmetry (a key's bias without rotation) are rounding noise.
      EXPECT_LE(difference, 1e-12 * std::max(size, 1e-3 * all)) << info.name;
    }
  }
}

ModelConfig absolute_model(PositionTable table, bool learnable = false) {
  ModelConfig config = small_model();
  config.context_length = 40;
  config.position_encoding = PositionEncoding::absolute;
  config.position_table = table;
  config.learnable_positions = learnable;
  return config;
}

TEST(Projection, AgreesForRotaryPositions) {
  ModelConfig config = small_model();
  config.context_length = 40;
  config.extra_cross_attention_after = {0};
  config.context_dropout = 0.2;
  for (const int64_t kept : {0, 17}) {
    config.train_input_positions = kept;
    expect_agreement(config);
  }
  config.rotary_fraction = 1;
  config.rotary_head_fraction = 0.5;
  config.query_offset = true;
  config.position_source = PositionSource::terminal_relative_negated;
  expect_agreement(config);
}

TEST(Projection, AgreesForEveryPositionTable) {
  for (const PositionTable table :
       {PositionTable::sinusoidal, PositionTable::fourier, PositionTable::learned, PositionTable::random})
    for (const bool learnable : {false, true}) expect_agreement(absolute_model(table, learnable));
}

TEST(Projection, AgreesForSeveralAxes) {
  for (const bool learnable : {false, true}) {
    ModelConfig config = absolute_model(PositionTable::sinusoidal, learnable);
    config.position_sizes = {41, 3, 3, 4};
    expect_agreement(config);
    config.position_sizes = {41, 3, 3, 3, 3, 3, 3, 3};
    config.attention_width = AttentionWidth::q;
    config.latent_channels = 12;
    expect_agreement(config);
  }
}

TEST(Projection, AgreesForExtraCrossAttentionsAndSubsets) {
  ModelConfig config = absolute_model(PositionTable::learned);
  config.position_sizes = {41, 3};
  config.extra_cross_attention_after = {1, 0};
  expect_agreement(config);
  config.train_input_positions = 17;
  config.context_dropout = 0.3;
  expect_agreement(config);
}

TEST(Projection, AgreesForOtherLatentsAndQueries) {
  ModelConfig config = absolute_model(PositionTable::sinusoidal);
  config.latents_per_position = 2;
  expect_agreement(config);
  expect_agreement(config, {8, true, {3, 5, 0, 0}});
  config.latents_per_position = 1;
  config.position_source = PositionSource::terminal_relative;
  config.query_residual = false;
  expect_agreement(config);
  config.query_style = QueryStyle::learned;
  expect_agreement(config);
}

TEST(Projection, AgreesWithKeysOfTheLatents) {
  for (const PositionEncoding encoding : {PositionEncoding::rotary, PositionEncoding::both}) {
    ModelConfig config = small_model();
    config.context_length = 40;
    config.context_dropout = 0.3;
    for (ModelConfig each : {testing::with_own_latent_keys(config), testing::with_repeated_reading(config)}) {
      each.position_encoding = encoding;
      expect_agreement(each);
    }
  }
}

TEST(Projection, AgreesForTablesThatAreRotated) {
  ModelConfig config = absolute_model(PositionTable::sinusoidal);
  config.position_encoding = PositionEncoding::both;
  config.query_offset = true;
  config.extra_cross_attention_after = {0};
  expect_agreement(config);
}

TEST(Projection, GradientsOfTheWholeModel) {
  for (const PositionTable table :
       {PositionTable::learned, PositionTable::sinusoidal, PositionTable::random}) {
    ModelConfig config = absolute_model(table, table == PositionTable::sinusoidal);
    config.context_length = 12;
    config.position_sizes = {14, 3};
    config.extra_cross_attention_after = {0};
    config.context_projection = ContextProjection::table;
    check_model(config);
  }
}

/// In float32 both paths are as close to float64 as float32 allows.
TEST(Projection, KeysAndValuesInFloat32) {
  for (const bool absolute : {false, true}) {
    ContextModel narrow(cpu(), DType::f32, absolute), wide(cpu(), DType::f64, absolute);
    narrow.store.initialize(1);
    const std::vector<double> weights = host_doubles(narrow.store.values());
    wide.store.values().copy_from_host(std::as_bytes(std::span<const double>(weights)));
    const Tensor rounded = random_tensor({kExamples * kColumns * 2 * kChannels}, 8, 1, 0, DType::f32);
    const std::vector<double> d_kv = host_doubles(rounded);
    const KeysAndValues exact = wide.run(false, d_kv), table = narrow.run(true, d_kv);
    const std::vector<double> nothing(std::max(exact.gradients.size(), exact.kv.size()));
    const auto all = static_cast<int64_t>(exact.kv.size());
    EXPECT_LE(distance(table.kv, exact.kv, 0, all), 1e-6 * distance(exact.kv, nothing, 0, all));
    for (const ParameterInfo& info : narrow.store.infos())
      EXPECT_LE(distance(table.gradients, exact.gradients, info.offset, info.elements()),
                1e-5 * distance(exact.gradients, nothing, info.offset, info.elements()))
          << info.name;
  }
}

/// Tokens share positions and positions share tokens; the sums must not depend on threads.
TEST(Projection, RepeatedRunsAreBitwiseTheSame) {
  ModelConfig config = absolute_model(PositionTable::learned);
  config.context_length = 200;
  config.latents = 70;
  config.position_sizes = {202, 3};
  config.input_channels = config.latent_channels = 64;
  config.context_projection = ContextProjection::table;
  std::vector<double> first;
  for (const int threads : {2, 1, 2}) {
    PerceiverAR model(config, DeviceContext::cpu(threads), DType::f64);
    model.parameters().initialize(1);
    const Pass pass = run(model, random_batch(config, 3, 4), Recompute::none);
    if (first.empty()) first = pass.gradients;
    EXPECT_TRUE(pass.gradients == first) << threads;
  }
}

TEST(Projection, IsChosenByWork) {
  ModelConfig config;
  config.context_length = 4096;
  config.input_channels = 512;
  // Rotary: the size of the vocabulary against the number of tokens.
  EXPECT_TRUE(projects_tables(config, 4096, DType::f32));
  EXPECT_FALSE(projects_tables(config, 128, DType::f32));
  // A table of positions as long as the context is shared by the examples of a batch.
  config.position_encoding = PositionEncoding::absolute;
  EXPECT_FALSE(projects_tables(config, 4096, DType::f32));
  EXPECT_TRUE(projects_tables(config, 16 * 4096, DType::f32));
  // Learned tables need a third product, and bf16 models compute tables at half the rate.
  const int64_t tokens = 4096 + 259 + 2;
  EXPECT_LT(table_projection(config, tokens).operations, direct_projection(config, tokens).operations);
  config.learnable_positions = true;
  EXPECT_EQ(table_projection(config, tokens).operations, direct_projection(config, tokens).operations);
  EXPECT_TRUE(projects_tables(config, 3 * tokens, DType::f32));
  EXPECT_FALSE(projects_tables(config, 2 * tokens, DType::bf16));
  // Forced and forbidden.
  config.context_projection = ContextProjection::table;
  EXPECT_TRUE(projects_tables(config, 1, DType::f32));
  config.context_projection = ContextProjection::direct;
  EXPECT_FALSE(projects_tables(config, 1 << 20, DType::f32));
  config.context_projection = ContextProjection::table;
  config.type = ModelType::transformer;
  EXPECT_FALSE(projects_tables(config, 1 << 20, DType::f32));
}

/// The figures of docs/projection.md: nearly half of copy131k's arithmetic is the projection of the context.
TEST(Projection, CountsOperations) {
  ModelConfig config;
  config.context_length = 131072;
  config.latents = 1024;
  config.input_channels = 1024;
  config.layers = 6;
  const double direct = step_operations(config, 4),
               executed = executed_step_operations(config, 4, DType::bf16);
  EXPECT_EQ(direct - executed, 6.0 * 1024 * 2048 * (4 * 131072 - 259));
  EXPECT_GT(direct - executed, 0.4 * direct);
  config.context_projection = ContextProjection::direct;
  EXPECT_EQ(executed_step_operations(config, 4, DType::bf16), direct);
  config.train_input_positions = 1000;
  EXPECT_EQ(context_tokens(config, 4, true), 4000);
  EXPECT_EQ(context_tokens(config, 4, false), 4 * 131072);
}

}  // namespace
}  // namespace perceiver
