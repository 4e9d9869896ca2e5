#include "perceiver/experimental/ops.h"

#include <gtest/gtest.h>

#include "tests/support/gradient_check.h"

namespace perceiver {
namespace {

using testing::check_gradients;
using testing::random_tensor;

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

}  // namespace
}  // namespace perceiver
