#include "perceiver/experimental/ops.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/support/gradient_check.h"

namespace perceiver {
namespace {

using testing::check_gradients;
using testing::cpu;
using testing::random_tensor;

TEST(LayerNorm, Gradients) {
  check_gradients(
      [](Tape& tape, const std::vector<Variable>& in) {
        return ops::layer_norm(tape, in[0], {in[1], in[2]});
      },
      {random_tensor({7, 6}, 1, 2, 0.5), random_tensor({6}, 2), random_tensor({6}, 3)});
}

TEST(LayerNorm, NormalisesEachRow) {
  const Tensor x = random_tensor({3, 50}, 1, 4, -3);
  Tape tape(cpu(), false);
  std::vector<double> ones(50, 1), zeros(50, 0);
  const Variable y = ops::layer_norm(tape, Tape::constant(x),
                                     {Tape::constant(Tensor::from_host<double>(cpu(), {50}, ones)),
                                      Tape::constant(Tensor::from_host<double>(cpu(), {50}, zeros))});
  for (int64_t r = 0; r < 3; ++r) {
    const double* row = y.value.as<double>() + r * 50;
    const double mean = std::accumulate(row, row + 50, 0.0) / 50;
    const double variance = std::inner_product(row, row + 50, row, 0.0) / 50;
    EXPECT_NEAR(mean, 0, 1e-12);
    EXPECT_NEAR(variance, 1, 1e-5);
  }
}

TEST(ResidualLayerNorm, GradientsWithDropout) {
  for (const double rate : {0.0, 0.4}) {
    check_gradients(
        [rate](Tape& tape, const std::vector<Variable>& in) {
          const auto [sum, normal] = ops::residual_layer_norm(tape, in[0], in[1], {in[2], in[3]}, {rate, 24});
          return ops::residual_add(tape, sum, normal, {rate, 24});
        },
        {random_tensor({8, 6}, 1), random_tensor({8, 6}, 2), random_tensor({6}, 3), random_tensor({6}, 4)});
  }
}

TEST(ResidualLayerNorm, GradientsWithoutResidual) {
  check_gradients(
      [](Tape& tape, const std::vector<Variable>& in) {
        const auto [sum, normal] = ops::residual_layer_norm(tape, {}, in[0], {in[1], in[2]}, {0.3, 48});
        return ops::residual_add(tape, sum, normal, {});
      },
      {random_tensor({8, 6}, 2), random_tensor({6}, 3), random_tensor({6}, 4)});
}

// What LayerNorm's backward leaves to the linear layers around it: the column sums of the gradient of the one
// before, and its own result for the one after.
TEST(LayerNorm, GradientsOfTheLinearLayersAroundIt) {
  // Where nothing is dropped, the feed-forward layer may add what it is added to.
  for (const auto& [rate, adds] : {std::pair{0.0, false}, {0.0, true}, {0.3, false}}) {
    const auto block = [rate, adds](Tape& tape, const std::vector<Variable>& in) {
      const Variable z = ops::linear(tape, in[0], {in[1], in[2]});
      const Variable branch = ops::linear(tape, ops::layer_norm(tape, z, {in[3], in[4]}), {in[5], in[6]});
      const auto [sum, normal] = ops::residual_layer_norm(tape, z, branch, {in[3], in[4]}, {rate, 24});
      const Variable widened = ops::feed_forward(tape, normal, {in[7], in[8]}, Activation::squared_relu,
                                                 {in[9], in[10]}, adds ? sum : Variable{});
      const Variable all = adds ? widened : ops::residual_add(tape, sum, widened, {rate, 24});
      return ops::layer_norm(tape, all, {in[3], in[4]});
    };
    check_gradients(block, {random_tensor({8, 5}, 1), random_tensor({6, 5}, 2), random_tensor({6}, 3),
                            random_tensor({6}, 4), random_tensor({6}, 5), random_tensor({6, 6}, 6),
                            random_tensor({6}, 7), random_tensor({12, 6}, 8), random_tensor({12}, 9),
                            random_tensor({6, 12}, 10), random_tensor({6}, 11)});
  }
}

TEST(LayerNorm, ItsBackwardMakesTheValueThatWaits) {
  Tape tape(cpu(), true);
  const Variable x = Tape::leaf(random_tensor({3, 6}, 1)), scale = Tape::leaf(random_tensor({6}, 2)),
                 offset = Tape::leaf(random_tensor({6}, 3)), weight = Tape::leaf(random_tensor({4, 6}, 4));
  const Variable normal = ops::layer_norm(tape, x, {scale, offset});
  int made = 0;
  normal.restore->value = [&made, value = normal.value] { return ++made, value; };
  const Variable y = ops::linear(tape, normal, {weight, {}});
  tape.give(y, random_tensor({3, 4}, 5));
  tape.backward();
  EXPECT_EQ(made, 0) << "the value was made apart from backward";
  EXPECT_TRUE(weight.gradient->written);
}

TEST(LayerNorm, GradientsOfTheParametersAlone) {
  const Tensor x = random_tensor({5, 4}, 1);
  check_gradients(
      [&](Tape& tape, const std::vector<Variable>& in) {
        return ops::layer_norm(tape, Tape::constant(x), {in[0], in[1]});
      },
      {random_tensor({4}, 2), random_tensor({4}, 3)});
}

}  // namespace
}  // namespace perceiver
