// The backward of every operation against finite differences, and forwards against naive definitions.
#include "ops/ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/support/gradient_check.h"

namespace perceiver {
namespace {

using testing::check_gradients;
using testing::cpu;
using testing::random_tensor;

Tensor ints(const std::vector<int32_t>& values) {
  return Tensor::from_host<int32_t>(cpu(), {static_cast<int64_t>(values.size())}, values);
}

TEST(Embedding, GradientsOfSeveralTables) {
  const Tensor tokens = ints({0, 4, 2, 4, 4, 1}), positions = ints({0, 1, 2, 0, 1, 1, 2, 2, 0, 0, 1, 0});
  check_gradients(
      [&](Tape& tape, const std::vector<Variable>& in) {
        const ops::Lookup lookups[] = {{.table = in[0], .ids = tokens},
                                       {.table = in[1], .ids = positions, .stride = 2, .column = 0},
                                       {.table = in[2], .ids = positions, .stride = 2, .column = 1}};
        return ops::embedding(tape, lookups, 6, DType::f64);
      },
      {random_tensor({5, 3}, 1), random_tensor({3, 3}, 2), random_tensor({3, 3}, 3)});
}

TEST(Embedding, AddsUpOverTwoUsesOfOneTable) {
  const Tensor first = ints({1, 1, 0}), second = ints({2, 1, 1});
  check_gradients(
      [&](Tape& tape, const std::vector<Variable>& in) {
        const ops::Lookup a{.table = in[0], .ids = first}, b{.table = in[0], .ids = second};
        return ops::residual_add(tape, ops::embedding(tape, {&a, 1}, 3, DType::f64),
                                 ops::embedding(tape, {&b, 1}, 3, DType::f64), {});
      },
      {random_tensor({4, 5}, 1)});
}

TEST(LayerNorm, Gradients) {
  check_gradients(
      [](Tape& tape, const std::vector<Variable>& in) {
        return ops::layer_norm(tape, in[0], {in[1], in[2]});
      },
      {random_tensor({7, 6}, 1, 2, 0.5), random_tensor({6}, 2), random_tensor({6}, 3)});
}

TEST(LayerNorm, NormalisesEachRow) {
  const Tensor x = random_tensor({3, 50}, 1, 4, -3);
  Tape tape(cpu(), false);
  std::vector<double> ones(50, 1), zeros(50, 0);
  const Variable y = ops::layer_norm(tape, Tape::constant(x),
                                     {Tape::constant(Tensor::from_host<double>(cpu(), {50}, ones)),
                                      Tape::constant(Tensor::from_host<double>(cpu(), {50}, zeros))});
  for (int64_t r = 0; r < 3; ++r) {
    const double* row = y.value.as<double>() + r * 50;
    const double mean = std::accumulate(row, row + 50, 0.0) / 50;
    const double variance = std::inner_product(row, row + 50, row, 0.0) / 50;
    EXPECT_NEAR(mean, 0, 1e-12);
    EXPECT_NEAR(variance, 1, 1e-5);
  }
}

TEST(ResidualLayerNorm, GradientsWithDropout) {
  for (const double rate : {0.0, 0.4}) {
    check_gradients(
        [rate](Tape& tape, const std::vector<Variable>& in) {
          const auto [sum, normal] = ops::residual_layer_norm(tape, in[0], in[1], {in[2], in[3]}, {rate, 24});
          return ops::residual_add(tape, sum, normal, {rate, 24});
        },
        {random_tensor({8, 6}, 1), random_tensor({8, 6}, 2), random_tensor({6}, 3), random_tensor({6}, 4)});
  }
}

TEST(ResidualLayerNorm, GradientsWithoutResidual) {
  check_gradients(
      [](Tape& tape, const std::vector<Variable>& in) {
        const auto [sum, normal] = ops::residual_layer_norm(tape, {}, in[0], {in[1], in[2]}, {0.3, 48});
        return ops::residual_add(tape, sum, normal, {});
      },
      {random_tensor({8, 6}, 2), random_tensor({6}, 3), random_tensor({6}, 4)});
}

// The residual and the branch of one addition share the storage of their gradient; adding to one must not
// change the other.
TEST(ResidualAdd, SharedGradientsStaySeparate) {
  check_gradients(
      [](Tape& tape, const std::vector<Variable>& in) {
        const Variable a = ops::layer_norm(tape, in[0], {in[2], in[3]});
        const Variable b = ops::layer_norm(tape, in[1], {in[2], in[3]});
        const Variable sum = ops::residual_add(tape, a, b, {});
        const Variable again = ops::residual_add(tape, a, sum, {});
        return ops::residual_add(tape, again, b, {});
      },
      {random_tensor({4, 6}, 1), random_tensor({4, 6}, 2), random_tensor({6}, 3), random_tensor({6}, 4)});
}

TEST(Linear, GradientsForEveryActivation) {
  for (const Activation activation : {Activation::identity, Activation::squared_relu, Activation::gelu,
                                      Activation::silu, Activation::relu}) {
    check_gradients(
        [activation](Tape& tape, const std::vector<Variable>& in) {
          return ops::linear(tape, in[0], {in[1], in[2]}, activation);
        },
        {random_tensor({9, 5}, 1), random_tensor({7, 5}, 2), random_tensor({7}, 3)});
  }
}

TEST(Linear, GradientsWithoutBias) {
  check_gradients(
      [](Tape& tape, const std::vector<Variable>& in) {
        return ops::linear(tape, in[0], {in[1], {}}, Activation::gelu);
      },
      {random_tensor({9, 5}, 1), random_tensor({7, 5}, 2)});
}

TEST(Rows, GradientsOfRepeatAndAverage) {
  check_gradients(
      [](Tape& tape, const std::vector<Variable>& in) {
        const Variable repeated = ops::repeat_rows(tape, in[0], in[1]);
        return ops::average_rows(tape, ops::linear(tape, repeated, {in[2], {}}, Activation::silu), 3);
      },
      {random_tensor({4, 5}, 1), random_tensor({3, 5}, 2), random_tensor({5, 5}, 3)});
}

struct AttentionCase {
  int64_t batch, heads, head_dim, queries, keys;
  bool packed, masked, self_visible, first;
};

ops::AttentionMask mask_of(const AttentionCase& c, uint32_t seed) {
  std::mt19937 generator(seed);
  ops::AttentionMask mask;
  std::vector<int32_t> limit, first;
  std::vector<uint8_t> keys;
  for (int64_t b = 0; b < c.batch; ++b) {
    first.push_back(c.first ? static_cast<int32_t>(generator() % static_cast<uint32_t>(c.keys)) : 0);
    // Example 1 is short: its first queries see no key.
    const int64_t length = b == 1 ? c.keys / 3 : c.keys;
    for (int64_t i = 0; i < c.queries; ++i)
      limit.push_back(static_cast<int32_t>(std::clamp<int64_t>(length - c.queries + i + 1, 0, c.keys)));
    for (int64_t n = 0; n < c.keys; ++n) keys.push_back(generator() % 3 != 0);
  }
  mask.limit = ints(limit);
  if (c.first) mask.first = ints(first);
  if (c.masked) mask.key_mask = Tensor::from_host<uint8_t>(cpu(), {c.batch, c.keys}, keys);
  mask.self_visible = c.self_visible;
  return mask;
}

bool sees(const ops::AttentionMask& mask, const AttentionCase& c, int64_t b, int64_t i, int64_t n) {
  if (n >= mask.limit.as<int32_t>()[b * c.queries + i]) return false;
  if (mask.first && n < mask.first.as<int32_t>()[b]) return false;
  if (!mask.key_mask || mask.key_mask.as<uint8_t>()[b * c.keys + n] != 0) return true;
  return mask.self_visible && n == i;
}

/// Attention by definition, in float64.
std::vector<double> naive_attention(const Tensor& q, const Tensor& kv, const ops::AttentionMask& mask,
                                    const AttentionCase& c) {
  const int64_t width = c.heads * c.head_dim;
  std::vector<double> out(static_cast<size_t>(c.batch * c.queries * width), 0.0);
  for (int64_t b = 0; b < c.batch; ++b)
    for (int64_t h = 0; h < c.heads; ++h)
      for (int64_t i = 0; i < c.queries; ++i) {
        std::vector<double> weight(static_cast<size_t>(c.keys), 0.0);
        double sum = 0;
        for (int64_t n = 0; n < c.keys; ++n) {
          if (!sees(mask, c, b, i, n)) continue;
          double score = 0;
          for (int64_t d = 0; d < c.head_dim; ++d)
            score += q.as<double>()[(b * c.queries + i) * width + h * c.head_dim + d] *
                     kv.as<double>()[(b * c.keys + n) * 2 * width + h * c.head_dim + d];
          sum += weight[static_cast<size_t>(n)] =
              std::exp(score / std::sqrt(static_cast<double>(c.head_dim)));
        }
        for (int64_t n = 0; n < c.keys && sum > 0; ++n)
          for (int64_t d = 0; d < c.head_dim; ++d)
            out[static_cast<size_t>((b * c.queries + i) * width + h * c.head_dim + d)] +=
                weight[static_cast<size_t>(n)] / sum *
                kv.as<double>()[(b * c.keys + n) * 2 * width + width + h * c.head_dim + d];
      }
  return out;
}

const AttentionCase kAttentionCases[] = {
    {2, 2, 8, 5, 23, false, false, false, false},     {3, 1, 16, 70, 150, false, false, false, false},
    {2, 3, 5, 65, 129, false, true, false, false},    {2, 2, 8, 67, 67, true, false, false, true},
    {2, 1, 24, 130, 130, true, true, true, true},     {1, 1, 32, 1, 300, false, true, false, false},
    {1, 2, 64, 64, 1024, false, false, false, false},
};

TEST(Attention, MatchesItsDefinition) {
  for (const AttentionCase& c : kAttentionCases) {
    const int64_t width = c.heads * c.head_dim;
    const Tensor q = random_tensor({c.batch * c.queries, width}, 1),
                 kv = random_tensor({c.batch * c.keys, 2 * width}, 2);
    const ops::AttentionMask mask = mask_of(c, 3);
    Tape tape(cpu(), false);
    const Variable out = ops::attention(tape,
                                        {.q = Tape::constant(q),
                                         .kv = Tape::constant(kv),
                                         .q_column = 0,
                                         .k_column = 0,
                                         .v_column = width,
                                         .batch = c.batch,
                                         .heads = c.heads,
                                         .head_dim = c.head_dim},
                                        mask);
    const std::vector<double> expected = naive_attention(q, kv, mask, c);
    for (size_t i = 0; i < expected.size(); ++i)
      ASSERT_NEAR(out.value.as<double>()[i], expected[i], 1e-12) << i;
  }
}

TEST(Attention, Gradients) {
  for (const AttentionCase& c : kAttentionCases) {
    const int64_t width = c.heads * c.head_dim;
    const ops::AttentionMask mask = mask_of(c, 3);
    if (c.packed) {
      check_gradients(
          [&](Tape& tape, const std::vector<Variable>& in) {
            return ops::attention(tape,
                                  {.q = in[0],
                                   .kv = in[0],
                                   .q_column = 0,
                                   .k_column = width,
                                   .v_column = 2 * width,
                                   .batch = c.batch,
                                   .heads = c.heads,
                                   .head_dim = c.head_dim},
                                  mask);
          },
          {random_tensor({c.batch * c.queries, 3 * width}, 1)});
    } else {
      check_gradients(
          [&](Tape& tape, const std::vector<Variable>& in) {
            return ops::attention(tape,
                                  {.q = in[0],
                                   .kv = in[1],
                                   .q_column = 0,
                                   .k_column = 0,
                                   .v_column = width,
                                   .batch = c.batch,
                                   .heads = c.heads,
                                   .head_dim = c.head_dim},
                                  mask);
          },
          {random_tensor({c.batch * c.queries, width}, 1), random_tensor({c.batch * c.keys, 2 * width}, 2)});
    }
  }
}

TEST(Attention, FloatStaysCloseToDoubleWithExtremeScores) {
  const AttentionCase c{2, 2, 32, 70, 200, false, true, false, false};
  const int64_t width = c.heads * c.head_dim;
  const Tensor q = random_tensor({c.batch * c.queries, width}, 1, 30),
               kv = random_tensor({c.batch * c.keys, 2 * width}, 2, 3);
  const auto rounded = [](const Tensor& tensor) {
    std::vector<float> values(static_cast<size_t>(tensor.elements()));
    std::copy_n(tensor.as<double>(), values.size(), values.begin());
    // The oracle sees the rounded values too.
    std::copy(values.begin(), values.end(), tensor.as<double>());
    return Tensor::from_host<float>(cpu(), tensor.shape(), values);
  };
  const Tensor q32 = rounded(q), kv32 = rounded(kv);
  const ops::AttentionMask mask = mask_of(c, 3);
  Tape tape(cpu(), false);
  const Variable out = ops::attention(tape,
                                      {.q = Tape::constant(q32),
                                       .kv = Tape::constant(kv32),
                                       .q_column = 0,
                                       .k_column = 0,
                                       .v_column = width,
                                       .batch = c.batch,
                                       .heads = c.heads,
                                       .head_dim = c.head_dim},
                                      mask);
  const std::vector<double> expected = naive_attention(q, kv, mask, c);
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(out.value.as<float>()[i], expected[i], 2e-3) << i;
}

TEST(Rotary, IsARotationThatBackwardUndoes) {
  ops::RotaryTable table;
  table.bands = 2;
  table.heads = 1;
  table.cosine = random_tensor({6, 2}, 11);
  table.sine = random_tensor({6, 2}, 12);
  const Tensor positions = ints({3, -2, 0, 5});
  check_gradients(
      [&](Tape& tape, const std::vector<Variable>& in) {
        const Variable x = ops::linear(tape, in[0], {in[1], {}});
        ops::rotary(tape, x, 4, 6, table, positions);
        return ops::linear(tape, x, {in[2], {}});
      },
      {random_tensor({4, 5}, 1), random_tensor({16, 5}, 2), random_tensor({3, 16}, 3)});
}

TEST(OutputLoss, GradientsWithSmoothingAndZLoss) {
  // More rows than fit in one chunk of logits, and four PAD targets.
  const int64_t rows = 150, vocabulary = 17000;
  std::vector<int32_t> targets;
  for (int64_t r = 0; r < rows; ++r)
    targets.push_back(r % 70 == 3 ? 0 : static_cast<int32_t>((r * 997) % vocabulary));
  const Tensor x = random_tensor({rows, 3}, 1), weight = random_tensor({vocabulary, 3}, 2, 0.5),
               bias = random_tensor({vocabulary}, 3);
  const Tensor target_tensor = ints(targets);
  const double scale = 0.25;
  ops::LossOptions options;
  options.label_smoothing = 0.1;
  options.z_loss = 0.01;
  options.gradient_scale = &scale;
  const auto objective = [&] {
    Tape tape(cpu(), false);
    const auto result = ops::output_loss(
        tape, Tape::constant(x), {Tape::constant(weight), Tape::constant(bias)}, target_tensor, options);
    EXPECT_EQ(result.totals.as<double>()[4], 146);
    return scale * result.totals.as<double>()[0];
  };
  Tape tape(cpu(), true);
  const Variable leaves[] = {testing::leaf(x), testing::leaf(weight), testing::leaf(bias)};
  ops::output_loss(tape, leaves[0], {leaves[1], leaves[2]}, target_tensor, options);
  tape.backward();
  std::mt19937 generator(1);
  for (const Variable& variable : leaves) {
    for (int sample = 0; sample < 6; ++sample) {
      const auto e = static_cast<int64_t>(generator() % static_cast<uint64_t>(variable.value.elements()));
      double* value = variable.value.as<double>() + e;
      const double kept = *value, h = 1e-5;
      *value = kept + h;
      const double above = objective();
      *value = kept - h;
      const double below = objective();
      *value = kept;
      EXPECT_NEAR(variable.gradient->tensor.as<double>()[e], (above - below) / (2 * h), 1e-5);
    }
  }
}

TEST(OutputLoss, PerfectPredictionCostsNothing) {
  const Tensor x = random_tensor({1, 1}, 1, 0, 1);
  for (const double smoothing : {0.0, 0.2}) {
    std::vector<double> logits(5, smoothing > 0 ? std::log(smoothing / 4) : -40.0);
    logits[3] = smoothing > 0 ? std::log(1 - smoothing) : 40.0;
    Tape tape(cpu(), false);
    ops::LossOptions options;
    options.label_smoothing = smoothing;
    const auto result = ops::output_loss(tape, Tape::constant(x),
                                         {Tape::constant(Tensor::zeros(cpu(), DType::f64, {5, 1})),
                                          Tape::constant(Tensor::from_host<double>(cpu(), {5}, logits))},
                                         ints({3}), options);
    EXPECT_NEAR(result.totals.as<double>()[0], 0, 1e-12);
    EXPECT_EQ(result.totals.as<double>()[3], 1);
  }
}

TEST(Dropout, RateScaleAndIndependenceOfMicroBatches) {
  const Tensor ones = random_tensor({64, 32}, 1, 0, 1);
  const Tensor none = Tensor::zeros(cpu(), DType::f64, {64, 32});
  const auto run = [&](const Tensor& branch, int64_t first_example) {
    const uint64_t step = 9;
    Tape tape(cpu(), false, true, {5, step, first_example, 0, &step});
    return ops::residual_add(tape, Tape::constant(none.view(0, branch.shape())), Tape::constant(branch),
                             {0.25, 4 * 32})
        .value.to_host<double>();
  };
  const std::vector<double> whole = run(ones, 0), second_half = run(ones.view(32 * 32, {32, 32}), 8);
  const auto kept = std::count_if(whole.begin(), whole.end(), [](double v) { return v != 0; });
  EXPECT_NEAR(static_cast<double>(kept) / 2048, 0.75, 0.05);
  for (double value : whole) EXPECT_TRUE(value == 0 || std::abs(value - 1 / 0.75) < 1e-12);
  EXPECT_TRUE(std::equal(second_half.begin(), second_half.end(), whole.begin() + 1024));
}

}  // namespace
}  // namespace perceiver
