#include "perceiver/experimental/ops.h"

#include <gtest/gtest.h>

#include <cmath>

#include "ops/linear_rotary.h"
#include "perceiver/error.h"
#include "tests/support/gradient_check.h"

namespace perceiver {
namespace {

using testing::check_gradients;
using testing::cpu;
using testing::random_tensor;

Tensor ints(const std::vector<int32_t>& values) {
  return Tensor::from_host<int32_t>(cpu(), {static_cast<int64_t>(values.size())}, values);
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

// Of one part and of two, all heads and some, with the inverse of its own and with attention's.
TEST(Rotary, OfALinearLayerIsThatOfItsResult) {
  const Tensor positions = ints({3, -2, 0, 5});
  const std::vector<Tensor> values{random_tensor({4, 5}, 1), random_tensor({24, 5}, 2),
                                   random_tensor({24}, 3)};
  for (const int64_t parts : {1, 2})
    for (const int64_t heads : {2, 1}) {
      const ops::RotaryTable table{random_tensor({6, 1}, 11), random_tensor({6, 1}, 12), 1, heads};
      const auto in_one = [&](Tape& tape, const std::vector<Variable>& in) {
        return ops::linear_rotary(
            tape, in[0], {in[1], in[2]},
            {.table = table, .positions = positions, .head_dim = 4, .parts = parts, .part_columns = 8});
      };
      check_gradients(in_one, values);
      Tape tape(cpu(), false);
      const std::vector<Variable> constants{Tape::constant(values[0]), Tape::constant(values[1]),
                                            Tape::constant(values[2])};
      const Variable apart = ops::linear(tape, constants[0], {constants[1], constants[2]});
      for (int64_t part = 0; part < parts; ++part) ops::rotary(tape, apart, part * 8, 4, table, positions);
      EXPECT_EQ(in_one(tape, constants).value.to_host<double>(), apart.value.to_host<double>());
    }
}

TEST(Rotary, AttentionRotatesBackWhatALinearLayerRotated) {
  const ops::AttentionMask mask = ops::causal_mask(cpu(), 2, 2);
  const Tensor positions = ints({3, -2, 0, 5});
  for (const int64_t heads : {2, 1}) {
    const ops::RotaryTable table{random_tensor({6, 2}, 11), random_tensor({6, 2}, 12), 2, heads};
    check_gradients(
        [&](Tape& tape, const std::vector<Variable>& in) {
          const Variable qkv = ops::linear_rotary(tape, in[0], {in[1], {}},
                                                  {.table = table,
                                                   .positions = positions,
                                                   .head_dim = 4,
                                                   .parts = 2,
                                                   .part_columns = 8,
                                                   .reader_rotates_back = true});
          return ops::attention(tape,
                                {.q = qkv,
                                 .kv = qkv,
                                 .q_column = 0,
                                 .k_column = 8,
                                 .v_column = 16,
                                 .batch = 2,
                                 .heads = 2,
                                 .head_dim = 4,
                                 .rotary = table,
                                 .query_positions = positions,
                                 .key_positions = positions,
                                 .rotated = true},
                                mask);
        },
        {random_tensor({4, 5}, 1), random_tensor({24, 5}, 2)});
  }
}

TEST(Rotary, RefusesPartsThatDoNotFit) {
  const ops::RotaryTable table{random_tensor({6, 2}, 11), random_tensor({6, 2}, 12), 2, 2};
  const Variable x = Tape::constant(random_tensor({4, 5}, 1)),
                 weight = Tape::constant(random_tensor({24, 5}, 2));
  Tape tape(cpu(), false);
  EXPECT_THROW(
      ops::linear_rotary(
          tape, x, {weight, {}},
          {.table = table, .positions = ints({3, -2, 0, 5}), .head_dim = 4, .parts = 4, .part_columns = 8}),
      Error);
}

// An odd number of rotated channels is rounded up to pairs, but counts as it is in the frequencies.
TEST(Rotary, FrequenciesOfABase) {
  const ops::RotaryTable table =
      ops::make_rotary_table(cpu(), DType::f64, 5, 2, 6, {.fraction = 0.5, .base = 10000});
  ASSERT_EQ(table.bands, 2);
  const std::vector<double> cosine = table.cosine.to_host<double>(), sine = table.sine.to_host<double>();
  const double slow = 1.0f / static_cast<float>(std::pow(10000.0, 2.0f / 3.0f));
  for (size_t p = 0; p < 5; ++p) {
    EXPECT_NEAR(cosine[2 * p], std::cos(static_cast<double>(p)), 1e-15);
    EXPECT_NEAR(sine[2 * p + 1], std::sin(static_cast<double>(p) * slow), 1e-15);
  }
  const ops::RotaryTable two_thirds =
      ops::make_rotary_table(cpu(), DType::f32, 5, 1, 48, {.fraction = 32.0 / 48, .base = 10000});
  EXPECT_EQ(two_thirds.bands, 16);
}

TEST(Rotary, RefusesMorePairsThanChannels) {
  EXPECT_THROW(ops::make_rotary_table(cpu(), DType::f64, 5, 1, 5, {.fraction = 1, .base = 10000}), Error);
  EXPECT_THROW(ops::make_rotary_table(cpu(), DType::f64, 5, 1, 4, {.base = 0.5}), Error);
}

}  // namespace
}  // namespace perceiver
