#include "perceiver/experimental/ops.h"

#include <gtest/gtest.h>

#include "tests/support/gradient_check.h"

namespace perceiver {
namespace {

using testing::check_gradients;
using testing::random_tensor;

TEST(Linear, GradientsForEveryActivation) {
  for (const Activation activation : {Activation::identity, Activation::squared_relu, Activation::gelu,
                                      Activation::silu, Activation::relu, Activation::gelu_exact}) {
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

// Values of x Phi(x) to 16 digits.
TEST(Linear, ExactGelu) {
  Tape tape(testing::cpu(), false);
  const Tensor one = Tensor::from_host<double>(testing::cpu(), {1, 1}, std::vector<double>{1});
  const Tensor x = Tensor::from_host<double>(testing::cpu(), {3, 1}, std::vector<double>{1, -2, -8});
  const Variable y = ops::linear(tape, Tape::constant(x), {Tape::constant(one), {}}, Activation::gelu_exact);
  const std::vector<double> values = y.value.to_host<double>();
  EXPECT_NEAR(values[0], 0.8413447460685429, 1e-15);
  EXPECT_NEAR(values[1], -0.04550026389635842, 1e-16);
  EXPECT_NEAR(values[2] / -4.976768459417429e-15, 1, 1e-12);
}

}  // namespace
}  // namespace perceiver
