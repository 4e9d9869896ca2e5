// Attention with relative positions against its definition (Dai et al. 2019, section 3.3), its backward
// against finite differences, and the memory before a segment.
#include "ops/relative_attention.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/gradient_check.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::check_gradients;
using testing::cpu;
using testing::random_tensor;

Tensor relative_ints(const std::vector<int32_t>& values) {
  return Tensor::from_host<int32_t>(cpu(), {static_cast<int64_t>(values.size())}, values);
}

struct RelativeCase {
  int64_t batch, heads, head_dim, queries, memory, distances, window;
  bool first;
  int64_t keys() const { return memory + queries; }
  int64_t width() const { return heads * head_dim; }
};

const RelativeCase kRelativeCases[] = {
    {2, 2, 8, 5, 0, 5, 0, false},        {2, 2, 8, 5, 7, 12, 0, true},       {3, 1, 5, 70, 90, 160, 0, true},
    {2, 3, 6, 12, 20, 11, 20, true},     {1, 2, 16, 130, 150, 9, 150, true}, {2, 1, 4, 65, 3, 68, 0, false},
    {1, 1, 24, 1, 300, 301, 100, false}, {2, 2, 8, 67, 129, 196, 33, true},  {1, 1, 3, 4, 4, 1, 0, false},
};

Tensor first_keys(const RelativeCase& c) {
  std::vector<int32_t> first;
  for (int64_t b = 0; b < c.batch; ++b)
    first.push_back(static_cast<int32_t>(b == 0 ? c.memory : c.memory / (b + 1)));
  return relative_ints(first);
}

/// q, kv, u, v, positions.
std::vector<Tensor> relative_operands(const RelativeCase& c) {
  return {random_tensor({c.batch * c.queries, c.width()}, 1),
          random_tensor({c.batch * c.keys(), 2 * c.width()}, 2), random_tensor({c.heads, c.head_dim}, 3),
          random_tensor({c.heads, c.head_dim}, 4), random_tensor({c.distances, c.width()}, 5)};
}

ops::RelativeAttentionInputs relative_inputs(const RelativeCase& c, const std::vector<Variable>& in) {
  return {.q = in[0],
          .kv = in[1],
          .content_bias = in[2],
          .position_bias = in[3],
          .positions = in[4],
          .batch = c.batch,
          .heads = c.heads,
          .head_dim = c.head_dim,
          .window = c.window,
          .first_key = c.first ? first_keys(c) : Tensor()};
}

/// One row of one head, by definition.
std::vector<double> naive_relative_row(const RelativeCase& c, const std::vector<Tensor>& in, int64_t b,
                                       int64_t h, int64_t i) {
  const int64_t d = c.head_dim, width = c.width();
  const double* q = in[0].as<double>() + (b * c.queries + i) * width + h * d;
  const double *u = in[2].as<double>() + h * d, *v = in[3].as<double>() + h * d;
  const Tensor first = first_keys(c);
  std::vector<double> weights(static_cast<size_t>(c.keys()), 0.0), out(static_cast<size_t>(d), 0.0);
  double sum = 0;
  for (int64_t n = 0; n < c.keys(); ++n) {
    const int64_t t = c.memory + i - n;
    if (t < 0 || (c.window > 0 && t >= c.window)) continue;
    if (c.first && n < first.as<int32_t>()[b]) continue;
    const double* key = in[1].as<double>() + (b * c.keys() + n) * 2 * width + h * d;
    const double* r = in[4].as<double>() + std::min(t, c.distances - 1) * width + h * d;
    double score = 0;
    for (int64_t x = 0; x < d; ++x) score += (q[x] + u[x]) * key[x] + (q[x] + v[x]) * r[x];
    sum += weights[static_cast<size_t>(n)] = std::exp(score / std::sqrt(static_cast<double>(d)));
  }
  for (int64_t n = 0; n < c.keys() && sum > 0; ++n)
    for (int64_t x = 0; x < d; ++x)
      out[static_cast<size_t>(x)] += weights[static_cast<size_t>(n)] / sum *
                                     in[1].as<double>()[(b * c.keys() + n) * 2 * width + width + h * d + x];
  return out;
}

TEST(RelativeAttention, MatchesItsDefinition) {
  for (const RelativeCase& c : kRelativeCases) {
    SCOPED_TRACE(::testing::Message() << c.queries << " queries, memory " << c.memory);
    const std::vector<Tensor> operands = relative_operands(c);
    std::vector<Variable> constants;
    for (const Tensor& operand : operands) constants.push_back(Tape::constant(operand));
    Tape tape(cpu(), false);
    const Variable out = ops::relative_attention(tape, relative_inputs(c, constants));
    for (int64_t b = 0; b < c.batch; ++b)
      for (int64_t h = 0; h < c.heads; ++h)
        for (int64_t i = 0; i < c.queries; ++i) {
          const std::vector<double> expected = naive_relative_row(c, operands, b, h, i);
          for (int64_t x = 0; x < c.head_dim; ++x)
            ASSERT_NEAR(out.value.as<double>()[(b * c.queries + i) * c.width() + h * c.head_dim + x],
                        expected[static_cast<size_t>(x)], 1e-12)
                << b << " " << h << " " << i;
        }
  }
}

TEST(RelativeAttention, Gradients) {
  for (const RelativeCase& c : kRelativeCases) {
    SCOPED_TRACE(::testing::Message() << c.queries << " queries, memory " << c.memory);
    check_gradients(
        [&](Tape& tape, const std::vector<Variable>& in) {
          return ops::relative_attention(tape, relative_inputs(c, in));
        },
        relative_operands(c), 2e-6);
  }
}

TEST(RelativeAttention, GradientsWithDroppedWeights) {
  const RelativeCase c{2, 2, 8, 67, 70, 137, 0, true};
  const auto run = [&](Tape& tape, const std::vector<Variable>& in) {
    ops::RelativeAttentionInputs inputs = relative_inputs(c, in);
    inputs.dropout = 0.3;
    return ops::relative_attention(tape, inputs);
  };
  check_gradients(run, relative_operands(c), 2e-6);
}

/// The mean over many masks is what attention gives without dropout.
TEST(RelativeAttention, DroppedWeightsAreScaled) {
  const RelativeCase c{1, 1, 4, 3, 5, 8, 0, false};
  const std::vector<Tensor> operands = relative_operands(c);
  std::vector<Variable> constants;
  for (const Tensor& operand : operands) constants.push_back(Tape::constant(operand));
  ops::RelativeAttentionInputs inputs = relative_inputs(c, constants);
  Tape plain(cpu(), false);
  const Variable expected = ops::relative_attention(plain, inputs);
  inputs.dropout = 0.4;
  std::vector<double> mean(static_cast<size_t>(expected.value.elements()), 0.0);
  constexpr int kMasks = 4000;
  uint64_t step = 0;
  for (; step < kMasks; ++step) {
    Tape tape(cpu(), false, true, {.seed = 7, .step = step, .device_step = &step});
    const Variable out = ops::relative_attention(tape, inputs);
    for (size_t i = 0; i < mean.size(); ++i) mean[i] += out.value.as<double>()[i] / kMasks;
  }
  for (size_t i = 0; i < mean.size(); ++i) EXPECT_NEAR(mean[i], expected.value.as<double>()[i], 0.06);
}

/// Two passes that share u and v, as the layers of a model do: their gradients add up.
TEST(RelativeAttention, GradientsOfSharedBiasesAddUp) {
  const RelativeCase c{2, 2, 8, 5, 7, 12, 0, true};
  check_gradients(
      [&](Tape& tape, const std::vector<Variable>& in) {
        ops::RelativeAttentionInputs inputs = relative_inputs(c, in);
        inputs.q = ops::relative_attention(tape, inputs);
        return ops::relative_attention(tape, inputs);
      },
      relative_operands(c), 2e-6);
}

TEST(RelativeAttention, RefusesWhatDoesNotFit) {
  const RelativeCase c{1, 1, 4, 3, 2, 5, 0, false};
  std::vector<Variable> in;
  for (const Tensor& operand : relative_operands(c)) in.push_back(Tape::constant(operand));
  Tape tape(cpu(), false);
  ops::RelativeAttentionInputs inputs = relative_inputs(c, in);
  inputs.heads = 3;
  EXPECT_EQ(message_of([&] { ops::relative_attention(tape, inputs); }),
            "relative_attention: 3 heads of 4 channels, but q is [3, 4]");
  inputs = relative_inputs(c, in);
  inputs.first_key = relative_ints({6});
  EXPECT_NE(message_of([&] { ops::relative_attention(tape, inputs); }).find("first_key"), std::string::npos);
}

TEST(SegmentMemory, PrependsWhatIsRemembered) {
  const Tensor hidden = random_tensor({2 * 3, 2}, 1), x = random_tensor({2 * 2, 2}, 2);
  const ops::MemoryRows memory{.length = 3, .hidden = hidden, .remembered = relative_ints({1, 3})};
  Tape tape(cpu(), false);
  const Tensor joined = ops::prepend_memory(tape, memory, Tape::constant(x), 2).value;
  const double *h = hidden.as<double>(), *s = x.as<double>();
  const std::vector<double> expected{0,    0,    0,    0,    h[4],  h[5],  s[0], s[1], s[2], s[3],
                                     h[6], h[7], h[8], h[9], h[10], h[11], s[4], s[5], s[6], s[7]};
  EXPECT_EQ(joined.to_host<double>(), expected);
  const Tensor next = Tensor::zeros(cpu(), DType::f64, {6, 2});
  ops::remember(tape, memory, x, 2, next);
  EXPECT_EQ(next.to_host<double>(),
            (std::vector<double>{h[4], h[5], s[0], s[1], s[2], s[3], h[10], h[11], s[4], s[5], s[6], s[7]}));
}

TEST(SegmentMemory, LongSegmentsReplaceAllOfIt) {
  const Tensor hidden = random_tensor({2, 1}, 1), x = random_tensor({5, 1}, 2);
  const ops::MemoryRows memory{.length = 2, .hidden = hidden, .remembered = relative_ints({2})};
  const Tensor next = Tensor::zeros(cpu(), DType::f64, {2, 1});
  Tape tape(cpu(), false);
  ops::remember(tape, memory, x, 1, next);
  EXPECT_EQ(next.to_host<double>(), (std::vector<double>{x.as<double>()[3], x.as<double>()[4]}));
}

TEST(SegmentMemory, Gradients) {
  const ops::MemoryRows memory{
      .length = 3, .hidden = random_tensor({6, 4}, 1), .remembered = relative_ints({1, 3})};
  check_gradients(
      [&](Tape& tape, const std::vector<Variable>& in) {
        const Variable x = ops::scaled(tape, in[0], 1.5);
        const Variable joined = ops::prepend_memory(tape, memory, x, 2);
        return ops::average_rows(tape, joined, 2);
      },
      {random_tensor({2 * 5, 4}, 2)});
}

}  // namespace
}  // namespace perceiver
