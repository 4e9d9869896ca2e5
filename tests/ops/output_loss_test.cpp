#include "perceiver/experimental/ops.h"

#include <gtest/gtest.h>

#include "tests/support/gradient_check.h"

namespace perceiver {
namespace {

using testing::cpu;
using testing::random_tensor;

Tensor ints(const std::vector<int32_t>& values) {
  return Tensor::from_host<int32_t>(cpu(), {static_cast<int64_t>(values.size())}, values);
}

TEST(OutputLoss, GradientsWithSmoothingAndZLoss) {
  // More rows than fit in one chunk of logits, and four PAD targets.
  const int64_t rows = 150, vocabulary = 17000;
  std::vector<int32_t> targets;
  for (int64_t r = 0; r < rows; ++r)
    targets.push_back(r % 70 == 3 ? 0 : static_cast<int32_t>((r * 997) % vocabulary));
  const Tensor x = random_tensor({rows, 3}, 1), weight = random_tensor({vocabulary, 3}, 2, 0.5),
               bias = random_tensor({vocabulary}, 3);
  const Tensor target_tensor = ints(targets);
  const double scale = 0.25;
  ops::LossOptions options;
  options.label_smoothing = 0.1;
  options.z_loss = 0.01;
  options.gradient_scale = &scale;
  const auto objective = [&] {
    Tape tape(cpu(), false);
    const auto result = ops::output_loss(
        tape, Tape::constant(x), {Tape::constant(weight), Tape::constant(bias)}, target_tensor, options);
    EXPECT_EQ(result.totals.as<double>()[4], 146);
    return scale * result.totals.as<double>()[0];
  };
  Tape tape(cpu(), true);
  const Variable leaves[] = {Tape::leaf(x), Tape::leaf(weight), Tape::leaf(bias)};
  ops::output_loss(tape, leaves[0], {leaves[1], leaves[2]}, target_tensor, options);
  tape.backward();
  std::mt19937 generator(1);
  for (const Variable& variable : leaves) {
    for (int sample = 0; sample < 6; ++sample) {
      const auto e = static_cast<int64_t>(generator() % static_cast<uint64_t>(variable.value.elements()));
      double* value = variable.value.as<double>() + e;
      const double kept = *value, h = 1e-5;
      *value = kept + h;
      const double above = objective();
      *value = kept - h;
      const double below = objective();
      *value = kept;
      EXPECT_NEAR(variable.gradient->tensor.as<double>()[e], (above - below) / (2 * h), 1e-5);
    }
  }
}

TEST(OutputLoss, PerfectPredictionCostsNothing) {
  const Tensor x = random_tensor({1, 1}, 1, 0, 1);
  for (const double smoothing : {0.0, 0.2}) {
    std::vector<double> logits(5, smoothing > 0 ? std::log(smoothing / 4) : -40.0);
    logits[3] = smoothing > 0 ? std::log(1 - smoothing) : 40.0;
    Tape tape(cpu(), false);
    ops::LossOptions options;
    options.label_smoothing = smoothing;
    const auto result = ops::output_loss(tape, Tape::constant(x),
                                         {Tape::constant(Tensor::zeros(cpu(), DType::f64, {5, 1})),
                                          Tape::constant(Tensor::from_host<double>(cpu(), {5}, logits))},
                                         ints({3}), options);
    EXPECT_NEAR(result.totals.as<double>()[0], 0, 1e-12);
    EXPECT_EQ(result.totals.as<double>()[3], 1);
  }
}

}  // namespace
}  // namespace perceiver
