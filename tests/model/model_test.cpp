// Properties of the whole model: gradients for options not in the golden files, recomputation, context
// subsets, memory.
#include "model/perceiver_ar.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "perceiver/error.h"
#include "tests/support/small_model.h"

namespace perceiver {
namespace {

using testing::check_model;
using testing::Pass;
using testing::random_batch;
using testing::run;
using testing::small_model;

TEST(Model, GradientsOfThePlainModel) {
  check_model(small_model());
}

TEST(Model, GradientsOfEveryQueryStyle) {
  for (const QueryStyle style : {QueryStyle::mlp, QueryStyle::learned}) {
    for (const bool shared : {false, true}) {
      ModelConfig config = small_model();
      config.query_style = style;
      config.shared_learned_query = shared && style == QueryStyle::learned;
      config.query_activation = Activation::gelu;
      check_model(config);
    }
  }
}

TEST(Model, GradientsWithExtraCrossAttentionsAndOtherWidths) {
  ModelConfig config = small_model();
  config.extra_cross_attention_after = {1, 0};
  config.latent_channels = 12;
  config.rotary_fraction = 1;
  config.rotary_head_fraction = 0.5;
  config.query_offset = true;
  for (const AttentionWidth width : {AttentionWidth::kv, AttentionWidth::q}) {
    config.attention_width = width;
    check_model(config);
  }
}

TEST(Model, GradientsWithSeveralAxesAndLatentsPerPosition) {
  ModelConfig config = small_model();
  config.position_encoding = PositionEncoding::absolute;
  config.position_sizes = {14, 3};
  config.latents_per_position = 2;
  for (const PositionTable table :
       {PositionTable::learned, PositionTable::sinusoidal, PositionTable::random}) {
    config.position_table = table;
    config.learnable_positions = table == PositionTable::sinusoidal;
    check_model(config);
  }
}

TEST(Model, GradientsWithContextAndLatentDropout) {
  ModelConfig config = small_model();
  config.context_dropout = 0.5;
  config.latent_dropout = 0.5;
  config.query_residual = false;
  config.position_source = PositionSource::terminal_relative_negated;
  check_model(config);
}

TEST(Model, GradientsOfAContextSubset) {
  ModelConfig config = small_model();
  config.train_input_positions = 5;
  check_model(config);
}

TEST(Model, GradientsWithKeysOfTheLatents) {
  for (const double dropout : {0.0, 0.5}) {
    ModelConfig config = testing::with_own_latent_keys(small_model());
    config.context_dropout = dropout;
    check_model(config);
    config = testing::with_repeated_reading(small_model());
    config.context_dropout = dropout;
    check_model(config);
    config.extra_cross_attention_after = {-1, -1, 0, 1};
    config.position_encoding = PositionEncoding::rotary;
    config.biases = Biases::none;
    config.output_bias = false;
    check_model(config);
  }
}

// Each option by itself, in the model that is otherwise the usual one.
TEST(Model, GradientsWithoutWhatIsOptional) {
  const auto check_with = [](auto change) {
    ModelConfig config = small_model();
    change(config);
    check_model(config);
  };
  check_with([](ModelConfig& c) { c.query_projection = false; });
  check_with([](ModelConfig& c) { c.biases = Biases::none; });
  check_with([](ModelConfig& c) { c.biases = Biases::cross_output; });
  check_with([](ModelConfig& c) { c.output_norm = false; });
  check_with([](ModelConfig& c) { c.output_bias = false; });
  check_with([](ModelConfig& c) { c.tied_output = true; });
  check_with([](ModelConfig& c) { c.latent_keys = LatentKeys::latents; });
  check_with([](ModelConfig& c) { c.head_channels = 6; });
  check_with([](ModelConfig& c) { c.rotary_layers = 0; });
  check_with([](ModelConfig& c) { c.rotary_base = 100; });
  check_with([](ModelConfig& c) { c.extra_cross_attention_after = {-1, 1, -1}; });
  check_with([](ModelConfig& c) { c.position_encoding = PositionEncoding::both; });
}

TEST(Model, GradientsOfTheTransformerWithTiedOutput) {
  ModelConfig config = small_model();
  config.type = ModelType::transformer;
  config.latents = config.context_length;
  config.tied_output = true;
  config.head_channels = 6;
  config.query_projection = false;
  check_model(config);
}

TEST(Model, GradientsOfTheTransformer) {
  ModelConfig config = small_model();
  config.type = ModelType::transformer;
  config.latents = config.context_length;
  check_model(config);
}

TEST(Model, RecomputeIsBitwiseTheSame) {
  ModelConfig config = small_model();
  config.extra_cross_attention_after = {0};
  config.context_dropout = config.latent_dropout = 0.3;
  for (const ModelConfig& each : {config, testing::with_repeated_reading(config)})
    for (const DType type : {DType::f32, DType::f64}) {
      PerceiverAR model(each, DeviceContext::cpu(2), type);
      model.parameters().initialize(1);
      const Batch batch = random_batch(each, 3, 4);
      const Pass stored = run(model, batch, Recompute::none);
      for (const Recompute recompute : {Recompute::block, Recompute::attention_mlp}) {
        const Pass again = run(model, batch, recompute);
        EXPECT_EQ(stored.loss, again.loss);
        EXPECT_TRUE(stored.gradients == again.gradients);
      }
    }
}

TEST(Model, RepeatedRunsAreBitwiseTheSame) {
  ModelConfig config = small_model();
  config.context_length = 200;
  config.latents = 70;
  config.input_channels = config.latent_channels = 64;
  PerceiverAR model(config, DeviceContext::cpu(2), DType::f32);
  model.parameters().initialize(1);
  const Batch batch = random_batch(config, 3, 4);
  const Pass first = run(model, batch, Recompute::none);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(run(model, batch, Recompute::none).gradients == first.gradients);
}

TEST(Model, ContextSubsetKeepsTheExactNumberOfColumnsInOrder) {
  ModelConfig config = small_model();
  config.train_input_positions = 5;
  const Batch batch = random_batch(config, 4, 4, false);
  std::vector<int> uses(12, 0);
  ModelInputs inputs;
  for (uint64_t step = 0; step < 200; ++step) {
    make_inputs(testing::cpu(), config, batch, {0, true, {1, step, 0, 0}}, inputs);
    ASSERT_EQ(inputs.columns, 5);
    const std::vector<int32_t> positions = inputs.rotary_positions.to_host<int32_t>();
    for (int64_t b = 0; b < 4; ++b) {
      const auto row = positions.begin() + b * 5;
      ASSERT_TRUE(std::is_sorted(row, row + 5) && std::adjacent_find(row, row + 5) == row + 5);
      for (int64_t i = 0; i < 5; ++i) ++uses[static_cast<size_t>(row[i] - 1)];
      // The last latent is at the last token and sees every kept column; the first sees those up to its step.
      const std::vector<int32_t> limit = inputs.cross.limit.to_host<int32_t>();
      EXPECT_EQ(limit[static_cast<size_t>(b * 4 + 3)], 5);
      EXPECT_EQ(limit[static_cast<size_t>(b * 4)], std::upper_bound(row, row + 5, 9) - row);
    }
  }
  for (const int count : uses) EXPECT_NEAR(count, 200 * 4 * 5 / 12, 80);
}

TEST(Model, KeepingAllColumnsIsTheWholeContext) {
  ModelConfig config = small_model();
  PerceiverAR model(config, DeviceContext::cpu(2), DType::f64);
  model.parameters().initialize(1);
  const Batch batch = random_batch(config, 3, 4);
  const Pass whole = run(model, batch, Recompute::none);
  config.train_input_positions = config.context_length;
  PerceiverAR subset(config, DeviceContext::cpu(2), DType::f64);
  subset.parameters().initialize(1);
  EXPECT_EQ(run(subset, batch, Recompute::none).loss, whole.loss);
}

// As many as promised, never one of a latent, and others for each cross-attention.
TEST(Model, PrefixDropoutHidesAnExactShareOfThePrefix) {
  ModelConfig config = testing::with_repeated_reading(small_model());
  config.context_dropout = 0.7;  // of 8 positions: 5
  const Batch batch = random_batch(config, 4, 4);
  std::vector<int> hidden(12, 0);
  int different = 0;
  ModelInputs inputs;
  for (uint64_t step = 0; step < 200; ++step) {
    make_inputs(testing::cpu(), config, batch, {0, true, {1, step, 0, 0}}, inputs);
    ASSERT_EQ(inputs.extra_key_masks.size(), 1u);
    const auto first = inputs.cross.key_mask.to_host<uint8_t>(),
               second = inputs.extra_key_masks[0].to_host<uint8_t>();
    different += first != second;
    for (const auto& mask : {first, second})
      for (int64_t b = 0; b < 4; ++b) {
        const auto row = mask.begin() + b * 12;
        const int64_t prefix = std::max(0, batch.lengths[b] - 4);
        EXPECT_EQ(std::count(row, row + prefix, 0), static_cast<int64_t>(static_cast<double>(prefix) * 0.7));
        EXPECT_EQ(std::count(row + prefix, row + 12, 0), 0);
        if (prefix == 8)
          for (int64_t n = 0; n < 8; ++n) hidden[static_cast<size_t>(n)] += row[n] == 0;
      }
  }
  EXPECT_GT(different, 150);
  const int all = std::accumulate(hidden.begin(), hidden.end(), 0);
  for (int64_t n = 0; n < 8; ++n) EXPECT_NEAR(hidden[static_cast<size_t>(n)], all / 8, all / 40);
  make_inputs(testing::cpu(), config, batch, {}, inputs);
  EXPECT_FALSE(inputs.cross.key_mask);
  EXPECT_TRUE(inputs.extra_key_masks.empty());
}

TEST(Model, TiedOutputHasNoWeightOfItsOwn) {
  ModelConfig config = small_model();
  const PerceiverAR apart(config, DeviceContext::cpu(1), DType::f32);
  config.tied_output = true;
  const PerceiverAR tied(config, DeviceContext::cpu(1), DType::f32);
  EXPECT_EQ(apart.parameters().count() - tied.parameters().count(), 13 * 8);
  EXPECT_EQ(tied.parameters().find("output.linear.weight"), nullptr);
}

// No latent sees a later token: changing one does not change earlier predictions.
void check_causality(const ModelConfig& config) {
  PerceiverAR model(config, DeviceContext::cpu(2), DType::f64);
  model.parameters().initialize(1);
  Batch batch = random_batch(config, 1, 4);
  const std::vector<double> before = model.logits(model.prepare(batch, {})).to_host<double>();
  batch.tokens[10] = batch.tokens[10] == 3 ? 4 : 3;
  const std::vector<double> after = model.logits(model.prepare(batch, {})).to_host<double>();
  // The first two of the four latents are at steps 8 and 9.
  for (size_t i = 0; i < 2 * 13; ++i) EXPECT_EQ(before[i], after[i]);
  EXPECT_FALSE(std::equal(before.begin() + 26, before.end(), after.begin() + 26));
}

TEST(Model, IsCausal) {
  check_causality(small_model());
  check_causality(testing::with_own_latent_keys(small_model()));
  check_causality(testing::with_repeated_reading(small_model()));
}

TEST(Model, RejectsWhatItCannotTake) {
  const ModelConfig config = small_model();
  Batch batch = random_batch(config, 2, 4, false);
  batch.tokens[5] = 13;
  ModelInputs inputs;
  EXPECT_THROW(make_inputs(testing::cpu(), config, batch, {}, inputs), Error);
  batch.tokens[5] = 0;
  EXPECT_THROW(make_inputs(testing::cpu(), config, batch, {}, inputs), Error);
  ModelConfig absolute = config;
  absolute.position_encoding = PositionEncoding::absolute;
  absolute.position_sizes = {9};
  EXPECT_THROW(make_inputs(testing::cpu(), absolute, random_batch(config, 2, 4, false), {}, inputs), Error);
}

// No score matrix and no float mask: either would take 512 MiB for 131072 x 1024 floats, and a step with
// gradients several.
TEST(Model, ALongContextStaysUnderTwoGibibytes) {
  ModelConfig config;
  config.context_length = 131072;
  config.latents = 1024;
  config.input_channels = 64;
  config.latent_channels = 64;
  config.layers = 1;
  config.cross_heads = config.self_heads = 1;
  PerceiverAR model(config, DeviceContext::cpu(2), DType::f32);
  model.parameters().initialize(1);
  const Batch batch = random_batch(config, 1, 4, false);
  model.context().reset_peak();
  run(model, batch, Recompute::none);
  EXPECT_LT(model.context().statistics().peak_bytes, int64_t{512} << 20);
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  EXPECT_LT(usage.ru_maxrss, long{2} << 20) << "KiB resident";
}

TEST(Model, NothingIsAllocatedFromTheSystemAfterTheFirstPass) {
  const ModelConfig config = small_model();
  PerceiverAR model(config, DeviceContext::cpu(2), DType::f32);
  model.parameters().initialize(1);
  const Batch batch = random_batch(config, 3, 4);
  run(model, batch, Recompute::none);
  const int64_t before = model.context().statistics().system_allocations;
  for (uint64_t step = 0; step < 5; ++step)
    run(model, batch, Recompute::none, true, {0, true, {3, step, 0, 0}});
  EXPECT_EQ(model.context().statistics().system_allocations, before);
}

}  // namespace
}  // namespace perceiver
