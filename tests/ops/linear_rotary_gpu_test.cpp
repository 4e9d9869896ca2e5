// A rotated linear layer of enough rows for the product that rotates in its epilogue: in a layer of
// attention, recorded and not, and recomputed.
#include "ops/linear_rotary.h"

#include <gtest/gtest.h>

#include "perceiver/experimental/host_values.h"
#include "tests/support/gpu.h"
#include "tests/support/gradient_check.h"

namespace perceiver {
namespace {

using testing::gpu;

constexpr int64_t kBatch = 16, kLength = 1024, kRows = kBatch * kLength, kHeads = 8, kHeadDim = 64,
                  kWidth = kHeads * kHeadDim;

Tensor normal(DeviceContext& context, Shape shape, uint32_t seed, double scale) {
  const std::vector<double> values = testing::random_tensor(shape, seed, scale).to_host<double>();
  const Tensor tensor = Tensor::empty(context, DType::bf16, shape);
  fill(tensor, [&](int64_t i) { return values[static_cast<size_t>(i)]; });
  return tensor;
}

struct Attended {
  std::vector<double> out, d_x, d_weight, d_bias;
};

enum class Pass { recorded, recomputed, not_recorded };

/// In one: rotated by the linear layer; otherwise by attention.
Attended attend(DeviceContext& context, Pass pass, bool in_one) {
  const ops::RotaryTable table = ops::make_rotary_table(context, DType::bf16, kLength, kHeads, kHeadDim);
  std::vector<int32_t> places(kRows);
  for (size_t i = 0; i < places.size(); ++i)
    places[i] = static_cast<int32_t>(i % kLength) - (i < kLength ? 100 : 0);
  const Tensor positions = Tensor::from_host<int32_t>(context, {kRows}, places);
  const ops::AttentionMask mask = ops::causal_mask(context, kBatch, kLength);
  const Variable x = Tape::leaf(normal(context, {kRows, kWidth}, 1, 1)),
                 weight = Tape::leaf(normal(context, {3 * kWidth, kWidth}, 2, 0.05)),
                 bias = Tape::leaf(normal(context, {3 * kWidth}, 3, 0.1));
  const auto layer = [&](Tape& tape, const Variable& input) {
    const ops::LinearRotation rotation{.table = table,
                                       .positions = positions,
                                       .head_dim = kHeadDim,
                                       .parts = 2,
                                       .part_columns = kWidth,
                                       .reader_rotates_back = true};
    const Variable qkv = in_one ? ops::linear_rotary(tape, input, {weight, bias}, rotation)
                                : ops::linear(tape, input, {weight, bias});
    return ops::attention(tape,
                          {.q = qkv,
                           .kv = qkv,
                           .q_column = 0,
                           .k_column = kWidth,
                           .v_column = 2 * kWidth,
                           .batch = kBatch,
                           .heads = kHeads,
                           .head_dim = kHeadDim,
                           .rotary = table,
                           .query_positions = positions,
                           .key_positions = positions,
                           .rotated = in_one},
                          mask);
  };
  Tape tape(context, pass != Pass::not_recorded);
  const Variable out = pass == Pass::recomputed ? recomputed(tape, x, layer) : layer(tape, x);
  Attended result{.out = host_doubles(out.value), .d_x = {}, .d_weight = {}, .d_bias = {}};
  if (pass == Pass::not_recorded) return result;
  tape.give(out, normal(context, {kRows, kWidth}, 4, 1));
  tape.backward();
  result.d_x = host_doubles(x.gradient->tensor);
  result.d_weight = host_doubles(weight.gradient->tensor);
  result.d_bias = host_doubles(bias.gradient->tensor);
  return result;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

double largest(const std::vector<double>& a) {
  return largest_difference(a, std::vector<double>(a.size()));
}

TEST(LinearRotary, IsTheSameRecordedAndRecomputed) {
  SKIP_WITHOUT_GPU();
  const auto context = gpu();
  const Attended recorded = attend(*context, Pass::recorded, true);
  const Attended recomputed = attend(*context, Pass::recomputed, true);
  EXPECT_EQ(largest_difference(recomputed.out, recorded.out), 0);
  EXPECT_EQ(largest_difference(recomputed.d_x, recorded.d_x), 0);
  EXPECT_EQ(largest_difference(recomputed.d_weight, recorded.d_weight), 0);
  EXPECT_EQ(largest_difference(recomputed.d_bias, recorded.d_bias), 0);
  EXPECT_EQ(largest_difference(attend(*context, Pass::not_recorded, true).out, recorded.out), 0);
}

// The products before may be summed in another order, and be rounded to the other side.
TEST(LinearRotary, IsCloseToALinearLayerAndAPass) {
  SKIP_WITHOUT_GPU();
  const auto context = gpu();
  const Attended in_one = attend(*context, Pass::recorded, true),
                 apart = attend(*context, Pass::recorded, false);
  EXPECT_LT(largest_difference(in_one.out, apart.out), 1.0 / 64 * largest(apart.out));
  EXPECT_LT(largest_difference(in_one.d_x, apart.d_x), 1.0 / 64 * largest(apart.d_x));
  EXPECT_LT(largest_difference(in_one.d_weight, apart.d_weight), 1.0 / 64 * largest(apart.d_weight));
  EXPECT_LT(largest_difference(in_one.d_bias, apart.d_bias), 1.0 / 64 * largest(apart.d_bias));
}

}  // namespace
}  // namespace perceiver
