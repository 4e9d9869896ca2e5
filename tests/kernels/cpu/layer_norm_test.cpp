#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/norm.h"

namespace perceiver::kernels {
namespace {

template <typename T>
std::vector<T> random_values(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<T> normal;
  std::vector<T> values(static_cast<size_t>(count));
  std::generate(values.begin(), values.end(), [&] { return normal(generator); });
  return values;
}

/// A weight gradient reads either the result that forward made again, where a block is recomputed, or the one
/// that backward makes: both have to be the same bits.
template <typename T>
void check_result_of_backward(DType type, int64_t rows, int64_t columns) {
  SCOPED_TRACE(::testing::Message() << rows << " x " << columns);
  const int64_t n = rows * columns;
  const std::vector<T> x = random_values<T>(n, 1), d_y = random_values<T>(n, 2),
                       scale = random_values<T>(columns, 3), offset = random_values<T>(columns, 4);
  std::vector<T> y(x.size()), again(x.size()), d_x(x.size()), mean(static_cast<size_t>(rows)), rstd(mean),
      sums(static_cast<size_t>(columns));
  cpu::residual_layer_norm({.type = type,
                            .rows = rows,
                            .columns = columns,
                            .residual = x.data(),
                            .scale = scale.data(),
                            .offset = offset.data(),
                            .y = y.data(),
                            .mean = mean.data(),
                            .rstd = rstd.data()});
  cpu::residual_layer_norm_backward({.type = type,
                                     .rows = rows,
                                     .columns = columns,
                                     .x = x.data(),
                                     .scale = scale.data(),
                                     .mean = mean.data(),
                                     .rstd = rstd.data(),
                                     .d_y = d_y.data(),
                                     .d_x = d_x.data(),
                                     .branch_sums = sums.data(),
                                     .offset = offset.data(),
                                     .y = again.data()});
  EXPECT_EQ(again, y);
  for (int64_t column = 0; column < columns; ++column) {
    double sum = 0;
    for (int64_t row = 0; row < rows; ++row) sum += d_x[static_cast<size_t>(row * columns + column)];
    EXPECT_NEAR(sums[static_cast<size_t>(column)], sum, 1e-5 * (1 + std::abs(sum)));
  }
}

TEST(LayerNormKernel, BackwardMakesTheResultOnceMoreBitForBit) {
  for (const auto& [rows, columns] :
       {std::pair<int64_t, int64_t>{40, 64}, {7, 33}, {5, 257}, {3, 1000}, {2, 1}}) {
    check_result_of_backward<float>(DType::f32, rows, columns);
    check_result_of_backward<double>(DType::f64, rows, columns);
  }
}

}  // namespace
}  // namespace perceiver::kernels
