#include "perceiver/experimental/ops.h"

#include <gtest/gtest.h>

#include "tests/support/gradient_check.h"

namespace perceiver {
namespace {

using testing::check_gradients;
using testing::random_tensor;

TEST(Rows, GradientsOfRepeatAndAverage) {
  check_gradients(
      [](Tape& tape, const std::vector<Variable>& in) {
        const Variable repeated = ops::repeat_rows(tape, in[0], in[1]);
        return ops::average_rows(tape, ops::linear(tape, repeated, {in[2], {}}, Activation::silu), 3);
      },
      {random_tensor({4, 5}, 1), random_tensor({3, 5}, 2), random_tensor({5, 5}, 3)});
}

TEST(Rows, GradientsOfPlacedRows) {
  const Tensor rows = Tensor::from_host<int32_t>(testing::cpu(), {3}, std::vector<int32_t>{4, -1, 0});
  check_gradients(
      [&](Tape& tape, const std::vector<Variable>& in) {
        const Variable x = ops::linear(tape, in[0], {in[1], {}});
        ops::place_rows(tape, x, in[2], rows);
        // The values are read once more, so that their gradient is a sum.
        const Variable both = ops::residual_add(tape, x, ops::linear(tape, in[0], {in[3], {}}), {});
        return ops::linear(tape, both, {in[2], {}}, Activation::silu);
      },
      {random_tensor({5, 4}, 1), random_tensor({6, 4}, 2), random_tensor({3, 6}, 3),
       random_tensor({6, 4}, 4)});
}

TEST(Rows, PlacedRowsReplaceOthers) {
  Tape tape(testing::cpu(), false);
  const Tensor x = Tensor::from_host<double>(testing::cpu(), {3, 2}, std::vector<double>{1, 2, 3, 4, 5, 6});
  const Tensor values = Tensor::from_host<double>(testing::cpu(), {2, 2}, std::vector<double>{7, 8, 9, 10});
  const Tensor rows = Tensor::from_host<int32_t>(testing::cpu(), {2}, std::vector<int32_t>{-1, 1});
  ops::place_rows(tape, Tape::constant(x), Tape::constant(values), rows);
  EXPECT_EQ(x.to_host<double>(), (std::vector<double>{1, 2, 9, 10, 5, 6}));
}

}  // namespace
}  // namespace perceiver
