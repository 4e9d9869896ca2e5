// Keys and values from projected tables: each operation against finite differences, the whole against the
// direct path, and the choice between the two.
#include "model/projection.h"

#include <gtest/gtest.h>

#include "core/host_values.h"
#include "model/positions.h"
#include "model/precision.h"
#include "tests/support/gpu.h"
#include "tests/support/small_model.h"

namespace perceiver {
namespace {

using testing::check_gradients;
using testing::check_model;
using testing::cpu;
using testing::Pass;
using testing::random_batch;
using testing::random_tensor;
using testing::run;
using testing::small_model;

Tensor random_ids(int64_t count, int32_t below, uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(generator() % static_cast<uint32_t>(below));
  return Tensor::from_host<int32_t>(cpu(), {count}, ids);
}

constexpr int64_t kRows = 12, kTableRows = 5;

/// Lookups in `terms` tables, with position ids interleaved as in a batch.
std::vector<ops::Lookup> lookups_of(const std::vector<Variable>& tables, int64_t terms) {
  std::vector<ops::Lookup> lookups{{.table = tables[0], .ids = random_ids(kRows, kTableRows, 1)}};
  const Tensor positions = random_ids(kRows * terms, kTableRows, 2);
  for (int64_t t = 1; t < terms; ++t)
    lookups.push_back(
        {.table = tables[static_cast<size_t>(t)], .ids = positions, .stride = terms - 1, .column = t - 1});
  return lookups;
}

std::vector<Tensor> random_tables(int64_t terms, int64_t columns) {
  std::vector<Tensor> tables;
  for (int64_t t = 0; t < terms; ++t)
    tables.push_back(random_tensor({kTableRows, columns}, static_cast<uint32_t>(10 + t)));
  return tables;
}

TEST(Projection, GradientsOfCentringAndScaling) {
  check_gradients(
      [](Tape& tape, const std::vector<Variable>& in) {
        return ops::scale_columns(tape, ops::center_rows(tape, in[0]), in[1]);
      },
      {random_tensor({7, 6}, 1, 2, 0.5), random_tensor({6}, 2)});
}

TEST(Projection, GradientsOfTheVarianceOfSums) {
  for (const int64_t terms : {1, 2, 9})
    check_gradients(
        [terms](Tape& tape, const std::vector<Variable>& in) {
          std::vector<ops::Lookup> lookups = lookups_of(in, terms);
          for (ops::Lookup& lookup : lookups) lookup.table = ops::center_rows(tape, lookup.table);
          return ops::sum_rstd(tape, lookups, kRows, 3);
        },
        random_tables(terms, 6));
}

TEST(Projection, GradientsOfTheGather) {
  for (const int64_t terms : {1, 2, 4}) {
    std::vector<Tensor> inputs = random_tables(terms, 8);
    inputs.push_back(random_tensor({kRows}, 3));
    inputs.push_back(random_tensor({1, 8}, 4));
    check_gradients(
        [terms](Tape& tape, const std::vector<Variable>& in) {
          const auto last = static_cast<size_t>(terms);
          return ops::projected_rows(tape, {lookups_of(in, terms), in[last], in[last + 1]}, {}, kRows, 2,
                                     DType::f64);
        },
        inputs);
  }
}

TEST(Projection, GradientsOfARotatedGather) {
  const Tensor angles = random_tensor({20, 2}, 5), others = random_tensor({20, 2}, 6);
  std::vector<int32_t> positions(kRows);
  for (int64_t r = 0; r < kRows; ++r) positions[static_cast<size_t>(r)] = static_cast<int32_t>(r - 4);
  ops::RotaryUse rotary;
  // Not of length 1, so that a wrong direction shows in the gradient.
  rotary.table = {angles, others, 2, 1};
  rotary.head_dim = 5;
  rotary.positions = Tensor::from_host<int32_t>(cpu(), {kRows}, positions);
  // The inverse of a rotation is its transpose, whatever the numbers.
  check_gradients(
      [&](Tape& tape, const std::vector<Variable>& in) {
        return ops::projected_rows(tape, {lookups_of(in, 1), {}, {}}, rotary, kRows, 1, DType::f64);
      },
      random_tables(1, 16));
}

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

/// Keys and values of random tokens at random positions, and the gradients of a random functional of them.
struct KeysAndValues {
  std::vector<double> kv, gradients;
};

constexpr int64_t kExamples = 3, kColumns = 700, kVocabulary = 61, kChannels = 64;
constexpr int32_t kPositions[] = {702, 9};

class ContextModel {
 public:
  ContextModel(DeviceContext& context, DType type, bool absolute)
      : context_(context), type_(type), absolute_(absolute) {
    config_.input_channels = kChannels;
    config_.cross_heads = 4;
    config_.position_encoding = absolute ? PositionEncoding::absolute : PositionEncoding::rotary;
    block_.declare(store, "cross", config_);
    store.declare(tokens_, "tokens", {kVocabulary, kChannels}, {Initializer::truncated_normal, 1, {}});
    for (size_t axis = 0; absolute && axis < 2; ++axis)
      store.declare(positions_[axis], "positions." + std::to_string(axis), {kPositions[axis], kChannels},
                    {Initializer::truncated_normal, 1, {}});
    store.allocate(context, type);
  }

  KeysAndValues run(bool tables, const std::vector<double>& d_kv) {
    const int64_t rows = kExamples * kColumns;
    Tape tape(context_, true);
    BlockPass pass;
    pass.batch = kExamples;
    pass.key_positions = ids(1, 700, 3);
    pass.rotary = make_rotary_table(context_, type_, config_, 4, kChannels / 4, 800);
    store.start_gradients();
    const Variable kv =
        block_.keys_and_values(tape, tables ? by_tables(tape, rows) : directly(tape, rows), pass, type_);
    const Tensor gradient = Tensor::empty(context_, type_, kv.shape());
    fill(gradient, [&](int64_t i) { return d_kv[static_cast<size_t>(i)]; });
    const std::vector<double> values = host_doubles(kv.value);
    tape.give(kv, gradient);
    tape.backward();
    store.finish_gradients();
    return {values, host_doubles(store.gradients())};
  }

  ParameterStore store;

 private:
  Tensor ids(int64_t axes, int32_t below, uint32_t seed) const {
    const Tensor host = random_ids(kExamples * kColumns * axes, below, seed);
    return Tensor::from_host<int32_t>(context_, host.shape(), host.to_host<int32_t>());
  }
  std::vector<ops::Lookup> lookups(const Variable& tokens, const Variable& first,
                                   const Variable& second) const {
    std::vector<ops::Lookup> result{{.table = tokens, .ids = ids(1, kVocabulary, 1)}};
    if (!absolute_) return result;
    const Tensor positions = ids(2, kPositions[1], 2);
    result.push_back({.table = first, .ids = positions, .stride = 2, .column = 0});
    result.push_back({.table = second, .ids = positions, .stride = 2, .column = 1});
    return result;
  }
  Context directly(Tape& tape, int64_t rows) const {
    return {ops::embedding(tape, lookups(tokens_, positions_[0], positions_[1]), rows, type_), {}, {}};
  }
  Context by_tables(Tape& tape, int64_t rows) const {
    if (!absolute_) return {{}, lookups(store.unrounded(tokens_), {}, {}), {}};
    const auto centred = [&](const Variable& table) {
      return ops::center_rows(tape, store.unrounded(table));
    };
    Context result{{}, lookups(centred(tokens_), centred(positions_[0]), centred(positions_[1])), {}};
    result.rstd = ops::sum_rstd(tape, result.tables, rows, kExamples);
    return result;
  }

  DeviceContext& context_;
  DType type_;
  bool absolute_;
  ModelConfig config_;
  Variable tokens_, positions_[2];
  CrossBlock block_;
};

double distance(const std::vector<double>& a, const std::vector<double>& b, int64_t first, int64_t count) {
  double sum = 0;
  for (auto i = static_cast<size_t>(first); i < static_cast<size_t>(first + count); ++i)
    sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum);
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

/// On the GPU in bf16, tables give keys, values and gradients at least as close to float64 as the direct
/// path.
TEST(Projection, TablesAreTheCloserPathInBfloat16OnTheGpu) {
  SKIP_WITHOUT_GPU();
  const auto gpu = testing::gpu();
  for (const bool absolute : {false, true}) {
    ContextModel narrow(*gpu, DType::bf16, absolute), wide(cpu(), DType::f64, absolute);
    narrow.store.initialize(1);
    const std::vector<double> weights = host_doubles(narrow.store.values());
    wide.store.values().copy_from_host(std::as_bytes(std::span<const double>(weights)));
    // Exact in bf16, so that all start from the same values.
    const Tensor rounded = Tensor::empty(*gpu, DType::bf16, {kExamples * kColumns * 2 * kChannels});
    const std::vector<double> normal = random_tensor({rounded.elements()}, 8).to_host<double>();
    fill(rounded, [&](int64_t i) { return normal[static_cast<size_t>(i)]; });
    const std::vector<double> d_kv = host_doubles(rounded);
    apply_precision(Precision::bfloat16, *gpu);
    const KeysAndValues exact = wide.run(false, d_kv), direct = narrow.run(false, d_kv),
                        table = narrow.run(true, d_kv);
    const auto all = static_cast<int64_t>(exact.kv.size());
    EXPECT_LT(distance(table.kv, exact.kv, 0, all), distance(direct.kv, exact.kv, 0, all));
    const std::vector<double> nothing(exact.gradients.size());
    for (const ParameterInfo& info : narrow.store.infos()) {
      const auto error = [&](const KeysAndValues& path) {
        return distance(path.gradients, exact.gradients, info.offset, info.elements());
      };
      const double size = distance(exact.gradients, nothing, info.offset, info.elements());
      EXPECT_LE(error(table), error(direct) + 1e-6 * size) << info.name;
      EXPECT_LE(error(table), 1e-2 * size) << info.name;
    }
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
