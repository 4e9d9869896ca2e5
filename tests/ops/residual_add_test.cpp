#include "perceiver/experimental/ops.h"

#include <gtest/gtest.h>

#include "tests/support/gradient_check.h"

namespace perceiver {
namespace {

using testing::check_gradients;
using testing::random_tensor;

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

TEST(ResidualAdd, GradientsOfDropoutAlone) {
  check_gradients(
      [](Tape& tape, const std::vector<Variable>& in) {
        return ops::residual_add(tape, {}, in[0], {.rate = 0.4, .per_example = 6});
      },
      {random_tensor({5, 6}, 1)});
}

}  // namespace
}  // namespace perceiver
