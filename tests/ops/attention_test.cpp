// Attention against its definition, and its backward against finite differences.
#include "perceiver/experimental/ops.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/gradient_check.h"

namespace perceiver {
namespace {

using testing::check_gradients;
using testing::cpu;
using testing::random_tensor;

Tensor ints(const std::vector<int32_t>& values) {
  return Tensor::from_host<int32_t>(cpu(), {static_cast<int64_t>(values.size())}, values);
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

ops::RotaryTable rotary_table(int64_t positions, int64_t bands, int64_t heads) {
  return {random_tensor({positions, bands}, 11), random_tensor({positions, bands}, 12), bands, heads};
}

// Queries and keys of one matrix with the same positions and others, all heads and some, and of two matrices.
TEST(Attention, RotatesFirst) {
  const ops::AttentionMask mask = ops::causal_mask(cpu(), 2, 3);
  const Tensor positions = ints({0, 1, 2, 4, 0, -3}), others = ints({1, 1, 0, 2, 2, 3});
  for (const bool packed : {true, false})
    for (const int64_t heads : {2, 1})
      for (const Tensor& key_positions : {positions, others}) {
        const ops::RotaryTable table = rotary_table(5, 2, heads);
        const int64_t own = packed ? 24 : 8, kv_column = packed ? 8 : 0;
        const auto attend = [&](Tape& tape, const std::vector<Variable>& in, bool first) {
          const Variable q = ops::linear(tape, in[0], {in[1], {}});
          const Variable kv = packed ? q : ops::linear(tape, in[0], {in[2], {}});
          ops::AttentionInputs inputs{.q = q,
                                      .kv = kv,
                                      .q_column = 0,
                                      .k_column = kv_column,
                                      .v_column = kv_column + 8,
                                      .batch = 2,
                                      .heads = 2,
                                      .head_dim = 4};
          if (first) {
            ops::rotary(tape, q, 0, 4, table, positions);
            ops::rotary(tape, kv, kv_column, 4, table, key_positions);
          } else {
            inputs.rotary = table;
            inputs.query_positions = positions;
            inputs.key_positions = key_positions;
          }
          return ops::attention(tape, inputs, mask);
        };
        const std::vector<Tensor> values{random_tensor({6, 5}, 1), random_tensor({own, 5}, 2),
                                         random_tensor({16, 5}, 3)};
        check_gradients([&](Tape& tape, const std::vector<Variable>& in) { return attend(tape, in, false); },
                        packed ? std::vector(values.begin(), values.end() - 1) : values);
        Tape tape(cpu(), false);
        const std::vector<Variable> constants{Tape::constant(values[0]), Tape::constant(values[1]),
                                              Tape::constant(values[2])};
        EXPECT_EQ(attend(tape, constants, false).value.to_host<double>(),
                  attend(tape, constants, true).value.to_host<double>());
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

TEST(Attention, GradientsWhereOthersReadTheMatricesToo) {
  const ops::AttentionMask mask = ops::causal_mask(cpu(), 2, 3);
  check_gradients(
      [&](Tape& tape, const std::vector<Variable>& in) {
        const Variable heads = ops::attention(tape, {in[0], in[1], 0, 0, 4, 2, 2, 2}, mask);
        const Variable again = ops::attention(tape, {in[0], in[1], 0, 4, 0, 2, 2, 2}, mask);
        return ops::residual_add(tape, ops::residual_add(tape, heads, again, {}), in[0], {});
      },
      {random_tensor({6, 4}, 1), random_tensor({6, 8}, 2)});
}

TEST(Attention, GradientsBesideAConstant) {
  const ops::AttentionMask mask = ops::full_mask(cpu(), 1, 2, 5);
  const Tensor q = random_tensor({2, 4}, 1), kv = random_tensor({5, 8}, 2);
  check_gradients(
      [&](Tape& tape, const std::vector<Variable>& in) {
        return ops::attention(tape, {in[0], Tape::constant(kv), 0, 0, 4, 1, 2, 2}, mask);
      },
      {q});
  check_gradients(
      [&](Tape& tape, const std::vector<Variable>& in) {
        return ops::attention(tape, {Tape::constant(q), in[0], 0, 0, 4, 1, 2, 2}, mask);
      },
      {kv});
}

TEST(AttentionMask, CausalAndFullAreWhatTheirNamesSay) {
  const AttentionCase c{2, 1, 3, 4, 4, false, false, false, false};
  const Tensor q = random_tensor({8, 3}, 1), kv = random_tensor({8, 6}, 2);
  for (const bool causal : {true, false}) {
    const ops::AttentionMask mask = causal ? ops::causal_mask(cpu(), 2, 4) : ops::full_mask(cpu(), 2, 4, 4);
    for (int64_t i = 0; i < 8; ++i) EXPECT_EQ(mask.limit.as<int32_t>()[i], causal ? i % 4 + 1 : 4);
    Tape tape(cpu(), false);
    const Variable out =
        ops::attention(tape, {Tape::constant(q), Tape::constant(kv), 0, 0, 3, 2, 1, 3}, mask);
    const std::vector<double> expected = naive_attention(q, kv, mask, c);
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(out.value.as<double>()[i], expected[i], 1e-12);
  }
}

}  // namespace
}  // namespace perceiver
