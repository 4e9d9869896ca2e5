#include "perceiver/experimental/ops.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/gradient_check.h"

namespace perceiver {
namespace {

using testing::cpu;
using testing::random_tensor;

TEST(Dropout, RateScaleAndIndependenceOfMicroBatches) {
  const Tensor ones = random_tensor({64, 32}, 1, 0, 1);
  const Tensor none = Tensor::zeros(cpu(), DType::f64, {64, 32});
  const auto run = [&](const Tensor& branch, int64_t first_example) {
    const uint64_t step = 9;
    Tape tape(cpu(), false, true, {5, step, first_example, 0, &step});
    return ops::residual_add(tape, Tape::constant(none.view(0, branch.shape())), Tape::constant(branch),
                             {0.25, 4 * 32})
        .value.to_host<double>();
  };
  const std::vector<double> whole = run(ones, 0), second_half = run(ones.view(32 * 32, {32, 32}), 8);
  const auto kept = std::count_if(whole.begin(), whole.end(), [](double v) { return v != 0; });
  EXPECT_NEAR(static_cast<double>(kept) / 2048, 0.75, 0.05);
  for (double value : whole) EXPECT_TRUE(value == 0 || std::abs(value - 1 / 0.75) < 1e-12);
  EXPECT_TRUE(std::equal(second_half.begin(), second_half.end(), whole.begin() + 1024));
}

}  // namespace
}  // namespace perceiver
