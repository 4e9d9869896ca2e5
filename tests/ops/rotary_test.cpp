#include "perceiver/experimental/ops.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace perceiver
