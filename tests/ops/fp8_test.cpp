#include "ops/fp8.h"

#include <gtest/gtest.h>

#include <numeric>
#include <optional>

#include "ops/linear_rotary.h"
#include "tests/support/gradient_check.h"

namespace perceiver {
namespace {

using testing::cpu;
using testing::random_tensor;

std::shared_ptr<Fp8Recipe> recipe_for(int64_t sites) {
  auto recipe = std::make_shared<Fp8Recipe>();
  recipe->scales =
      Tensor::from_host<float>(cpu(), {sites, 2, 4}, std::vector<float>(8 * static_cast<size_t>(sites), 1));
  recipe->largest = Tensor::zeros(cpu(), DType::f32, {1, sites});
  recipe->peaks = Tensor::zeros(cpu(), DType::f32, {sites});
  recipe->calibrating = true;
  return recipe;
}

Tensor numbers(Shape shape, uint32_t seed, double scale = 1) {
  return random_tensor(shape, seed, scale, 0, DType::f32);
}

/// The result, then the gradients of x, weights and biases of a feed-forward layer or its first half.
std::vector<std::vector<float>> run(Activation activation, bool both, bool in_fp8, bool recompute = false,
                                    std::shared_ptr<Fp8Recipe> recipe = recipe_for(2 * ops::kFp8Sites)) {
  const Tensor values[] = {numbers({32, 48}, 1), numbers({64, 48}, 2, 0.2), numbers({64}, 3),
                           numbers({16, 64}, 4, 0.2), numbers({16}, 5)};
  std::vector<Variable> leaves;
  for (const Tensor& each : values) leaves.push_back(Tape::leaf(each));
  ops::LinearParameters first{leaves[1], leaves[2]}, second{leaves[3], leaves[4]};
  std::optional<ops::Fp8Weights> weights;
  if (in_fp8) weights.emplace(cpu(), recipe, std::vector{&first, &second});
  if (in_fp8) weights->quantise();
  const auto layer = [&](Tape& tape, const Variable& x) {
    return both ? ops::feed_forward(tape, x, first, activation, second) : ops::linear(tape, x, first);
  };
  Tape tape(cpu(), true, true);
  const Variable y = recompute ? recomputed(tape, leaves[0], layer) : layer(tape, leaves[0]);
  tape.give(y, numbers(y.shape(), 6, 1e-4));
  tape.backward();
  std::vector<std::vector<float>> results{y.value.to_host<float>()};
  for (size_t i = 0; i < (both ? 5 : 3); ++i) results.push_back(leaves[i].gradient->tensor.to_host<float>());
  return results;
}

/// |a - b| / |b|
double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * static_cast<double>(a[i] - b[i]);
    size += b[i] * static_cast<double>(b[i]);
  }
  return std::sqrt(difference / size);
}

TEST(Fp8Linear, FollowsThePlainLayer) {
  const auto plain = run(Activation::identity, false, false),
             rounded = run(Activation::identity, false, true);
  for (size_t i = 0; i < plain.size(); ++i) {
    // Rounding to 4 and 3 bits; the bias gradient is a sum of what was not rounded.
    EXPECT_LT(distance(rounded[i], plain[i]), i == 3 ? 1e-6 : 0.08) << i;
    if (i != 3) {
      EXPECT_GT(distance(rounded[i], plain[i]), 1e-3) << i;
    }
  }
}

TEST(Fp8Linear, FeedForwardFollowsThePlainLayers) {
  for (const Activation activation : {Activation::squared_relu, Activation::relu, Activation::gelu,
                                      Activation::silu, Activation::gelu_exact}) {
    const auto plain = run(activation, true, false), rounded = run(activation, true, true);
    for (size_t i = 0; i < plain.size(); ++i) {
      EXPECT_LT(distance(rounded[i], plain[i]), i == 5 ? 1e-6 : 0.25) << i;
      if (i != 5) {
        EXPECT_GT(distance(rounded[i], plain[i]), 1e-3) << i;
      }
    }
  }
}

TEST(Fp8Linear, RecomputationIsBitwiseTheSame) {
  EXPECT_EQ(run(Activation::squared_relu, true, true), run(Activation::squared_relu, true, true, true));
}

TEST(Fp8Linear, TheHiddenLayerIsQuantisedAsItIsComputed) {
  // Once the scales are known, products are quantised in one pass: the CPU's are the same ones.
  for (const Activation activation : {Activation::squared_relu, Activation::gelu}) {
    const auto recipe = recipe_for(2 * ops::kFp8Sites);
    const auto calibrated = run(activation, true, true, false, recipe);
    recipe->calibrating = false;
    EXPECT_EQ(run(activation, true, true, false, recipe), calibrated);
    EXPECT_EQ(run(activation, true, true, true, recipe), calibrated) << "recomputed";
  }
}

/// The results of LayerNorm(z + branch) and a linear layer behind it, then the gradients of all leaves.
/// `told`: LayerNorm knows its reader.
std::vector<std::vector<float>> normalise_and_multiply(bool told, bool residual,
                                                       const std::shared_ptr<Fp8Recipe>& recipe) {
  const Tensor values[] = {numbers({32, 48}, 1), numbers({32, 48}, 2), numbers({48}, 3),
                           numbers({48}, 4),     numbers({64, 48}, 5), numbers({64}, 6)};
  std::vector<Variable> leaves;
  for (const Tensor& each : values) leaves.push_back(Tape::leaf(each));
  const ops::NormParameters norm{leaves[2], leaves[3]};
  ops::LinearParameters layer{leaves[4], leaves[5]};
  const ops::Fp8Weights weights(cpu(), recipe, {&layer});
  weights.quantise();
  Tape tape(cpu(), true, true);
  const ops::LinearParameters* reader = told ? &layer : nullptr;
  const Variable normal = residual
                              ? ops::residual_layer_norm(tape, leaves[0], leaves[1], norm, {}, reader).normal
                              : ops::layer_norm(tape, leaves[0], norm, reader);
  EXPECT_EQ(normal.codes != nullptr, told && !recipe->calibrating);
  EXPECT_EQ(normal.value.data() == nullptr, normal.codes != nullptr);
  const Variable y = ops::linear(tape, normal, layer);
  tape.give(y, numbers(y.shape(), 7, 1e-4));
  tape.backward();
  std::vector<std::vector<float>> results{y.value.to_host<float>()};
  for (const Variable& leaf : leaves)
    if (leaf.gradient->written) results.push_back(leaf.gradient->tensor.to_host<float>());
  results.push_back(recipe->largest.to_host<float>());
  return results;
}

TEST(Fp8Linear, LayerNormQuantisesForItsReader) {
  for (const bool residual : {false, true}) {
    const auto recipe = recipe_for(ops::kFp8Sites);
    const auto calibrated = normalise_and_multiply(true, residual, recipe);
    recipe->calibrating = false;
    EXPECT_EQ(calibrated.size(), residual ? 8u : 7u);
    EXPECT_EQ(normalise_and_multiply(false, residual, recipe), calibrated);
    EXPECT_EQ(normalise_and_multiply(true, residual, recipe), calibrated);
  }
}

/// The result of a layer of attention, with its residual, and of the LayerNorm behind it, then the gradients
/// of all leaves and the largest magnitudes. Not `in_place`: a check needs values, so that every operand in 8
/// bits is made by a pass of its own.
std::vector<std::vector<float>> attend_and_normalise(bool in_place, bool recompute,
                                                     const std::shared_ptr<Fp8Recipe>& recipe) {
  constexpr int64_t kExamples = 2, kLength = 16, kRows = kExamples * kLength, kHeads = 2, kWidth = 16;
  const Tensor values[] = {numbers({kRows, kWidth}, 1), numbers({kWidth}, 2),
                           numbers({kWidth}, 3),        numbers({3 * kWidth, kWidth}, 4, 0.3),
                           numbers({3 * kWidth}, 5),    numbers({kWidth, kWidth}, 6, 0.3),
                           numbers({kWidth}, 7),        numbers({kWidth}, 8),
                           numbers({kWidth}, 9)};
  std::vector<Variable> leaves;
  for (const Tensor& each : values) leaves.push_back(Tape::leaf(each));
  const ops::NormParameters before{leaves[1], leaves[2]}, behind{leaves[7], leaves[8]};
  ops::LinearParameters qkv{leaves[3], leaves[4]}, out{leaves[5], leaves[6]};
  const ops::Fp8Weights weights(cpu(), recipe, {&qkv, &out});
  weights.quantise();
  std::vector<int32_t> places(kRows);
  for (size_t i = 0; i < places.size(); ++i) places[i] = static_cast<int32_t>(i % kLength);
  const Tensor positions = Tensor::from_host<int32_t>(cpu(), {kRows}, places);
  const ops::RotaryTable table = ops::make_rotary_table(cpu(), DType::f32, kLength, kHeads, kWidth / kHeads);
  const ops::AttentionMask mask = ops::causal_mask(cpu(), kExamples, kLength);
  std::optional<std::string> offender;
  Tape tape(cpu(), true, true);
  if (!in_place) tape.check_finite(&offender);
  const Variable z = leaves[0];
  const auto layer = [&](Tape& t, const Variable& normal) {
    const Variable heads = ops::linear_rotary(t, normal, qkv,
                                              {.table = table,
                                               .positions = positions,
                                               .head_dim = kWidth / kHeads,
                                               .parts = 2,
                                               .part_columns = kWidth,
                                               .reader_rotates_back = true});
    const Variable attended = ops::attention(t,
                                             {.q = heads,
                                              .kv = heads,
                                              .q_column = 0,
                                              .k_column = kWidth,
                                              .v_column = 2 * kWidth,
                                              .batch = kExamples,
                                              .heads = kHeads,
                                              .head_dim = kWidth / kHeads,
                                              .rotary = table,
                                              .query_positions = positions,
                                              .key_positions = positions,
                                              .rotated = true,
                                              .reader = &out},
                                             mask);
    EXPECT_EQ(attended.codes != nullptr, in_place && !recipe->calibrating);
    return ops::linear(t, attended, out, Activation::identity, z);
  };
  const Variable normal = ops::layer_norm(tape, z, before, recompute ? nullptr : &qkv);
  const Variable sum = recompute ? recomputed(tape, normal, layer) : layer(tape, normal);
  const Variable y = ops::layer_norm(tape, sum, behind);
  tape.give(y, numbers(y.shape(), 10, 1e-4));
  tape.backward();
  EXPECT_FALSE(offender.has_value());
  std::vector<std::vector<float>> results{sum.value.to_host<float>(), y.value.to_host<float>()};
  for (const Variable& leaf : leaves) results.push_back(leaf.gradient->tensor.to_host<float>());
  results.push_back(recipe->largest.to_host<float>());
  return results;
}

TEST(Fp8Linear, AttentionAndLayerNormQuantiseInPlace) {
  const auto recipe = recipe_for(2 * ops::kFp8Sites);
  const auto calibrated = attend_and_normalise(true, false, recipe);
  recipe->calibrating = false;
  EXPECT_EQ(attend_and_normalise(false, false, recipe), calibrated);
  EXPECT_EQ(attend_and_normalise(true, false, recipe), calibrated);
  EXPECT_EQ(attend_and_normalise(true, true, recipe), calibrated) << "recomputed";
}

TEST(Fp8Linear, OnlyWhereItFitsAndTrains) {
  const auto recipe = recipe_for(ops::kFp8Sites);
  const auto used = [&](int64_t rows, int64_t in, int64_t out, bool training) {
    ops::LinearParameters layer{Tape::leaf(numbers({out, in}, 1)), {}};
    const ops::Fp8Weights weights(cpu(), recipe, {&layer});
    const Tape tape(cpu(), true, training);
    return ops::multiplies_in_fp8(tape, Tape::leaf(numbers({rows, in}, 2)), layer);
  };
  EXPECT_TRUE(used(32, 16, 48, true));
  EXPECT_FALSE(used(32, 16, 48, false)) << "evaluation";
  EXPECT_FALSE(used(31, 16, 48, true));
  EXPECT_FALSE(used(32, 17, 48, true));
  EXPECT_FALSE(used(32, 16, 40, true));
}

}  // namespace
}  // namespace perceiver
