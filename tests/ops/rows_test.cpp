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

}  // namespace
}  // namespace perceiver
