#include "perceiver/experimental/ops.h"

#include <gtest/gtest.h>

#include <cmath>

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
