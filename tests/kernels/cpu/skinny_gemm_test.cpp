#include "kernels/gemm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <span>

#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/sampling.h"
#include "perceiver/experimental/device_context.h"
#include "tests/support/cpu_kernels.h"

namespace perceiver {
namespace {

using testing::as;
using testing::kElementType;
using testing::normal;

template <typename T>
void check_products(int64_t rows, int64_t columns, int64_t depth) {
  const auto x = as<T>(normal(static_cast<size_t>(rows * depth), 1)),
             weight = as<T>(normal(static_cast<size_t>(columns * depth), 2)),
             bias = as<T>(normal(static_cast<size_t>(columns), 3));
  std::vector<T> out(static_cast<size_t>(rows * columns));
  kernels::cpu::skinny_gemm({.type = kElementType<T>,
                             .weight_type = kElementType<T>,
                             .rows = rows,
                             .columns = columns,
                             .depth = depth,
                             .x = x.data(),
                             .weight = weight.data(),
                             .bias = bias.data(),
                             .out = out.data()});
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      double sum = static_cast<double>(bias[c]);
      for (int64_t i = 0; i < depth; ++i)
        sum += static_cast<double>(x[r * depth + i]) * static_cast<double>(weight[c * depth + i]);
      ASSERT_NEAR(out[r * columns + c], sum, sizeof(T) == 8 ? 1e-12 : 2e-4) << r << ' ' << c;
    }
  }
  // A row alone gives the same result bit for bit.
  std::vector<T> alone(static_cast<size_t>(columns));
  for (int64_t r = 0; r < rows; ++r) {
    kernels::cpu::skinny_gemm({.type = kElementType<T>,
                               .weight_type = kElementType<T>,
                               .rows = 1,
                               .columns = columns,
                               .depth = depth,
                               .x = x.data() + r * depth,
                               .weight = weight.data(),
                               .bias = bias.data(),
                               .out = alone.data()});
    ASSERT_TRUE(std::equal(alone.begin(), alone.end(), out.begin() + r * columns)) << r;
  }
}

TEST(SkinnyGemm, MatchesItsDefinition) {
  for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 9, 64})
    for (const auto& [columns, depth] : {std::pair{1, 1}, {7, 5}, {13, 64}, {33, 100}, {160, 257}}) {
      check_products<float>(rows, columns, depth);
      check_products<double>(rows, columns, depth);
    }
}

void check_bf16_weights(int64_t rows, int64_t columns, int64_t depth) {
  const auto x = as<float>(normal(static_cast<size_t>(rows * depth), 1)),
             given = as<float>(normal(static_cast<size_t>(columns * depth), 2));
  std::vector<uint16_t> bf16;
  std::vector<float> rounded;
  for (const float value : given) {
    bf16.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16));
    rounded.push_back(std::bit_cast<float>(static_cast<uint32_t>(bf16.back()) << 16));
  }
  std::vector<float> out(static_cast<size_t>(rows * columns)), expected(out.size());
  kernels::cpu::skinny_gemm({.type = DType::f32,
                             .weight_type = DType::bf16,
                             .rows = rows,
                             .columns = columns,
                             .depth = depth,
                             .x = x.data(),
                             .weight = bf16.data(),
                             .out = out.data()});
  kernels::cpu::skinny_gemm({.type = DType::f32,
                             .weight_type = DType::f32,
                             .rows = rows,
                             .columns = columns,
                             .depth = depth,
                             .x = x.data(),
                             .weight = rounded.data(),
                             .out = expected.data()});
  EXPECT_EQ(out, expected) << rows;
}

TEST(SkinnyGemm, WithBf16WeightsUsesTheRoundedValues) {
  for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8}) check_bf16_weights(rows, 21, 70);
}

std::vector<float> int8_products(std::span<const float> x, std::span<const int8_t> weight,
                                 std::span<const float> scale, const float* bias, int64_t rows) {
  const auto columns = static_cast<int64_t>(scale.size());
  std::vector<float> out(static_cast<size_t>(rows * columns));
  kernels::cpu::skinny_gemm({.type = DType::f32,
                             .weight_type = DType::i8,
                             .rows = rows,
                             .columns = columns,
                             .depth = static_cast<int64_t>(weight.size()) / columns,
                             .x = x.data(),
                             .weight = weight.data(),
                             .weight_scale = scale.data(),
                             .bias = bias,
                             .out = out.data()});
  return out;
}

TEST(SkinnyGemm, WithInt8WeightsMultipliesTheSumByTheScale) {
  for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 9}) {
    for (const auto& [columns, depth] : {std::pair{1, 1}, {7, 5}, {13, 64}, {33, 100}, {160, 257}}) {
      const auto x = as<float>(normal(static_cast<size_t>(rows * depth), 1)),
                 scale = as<float>(normal(static_cast<size_t>(columns), 2)),
                 bias = as<float>(normal(static_cast<size_t>(columns), 3));
      std::vector<int8_t> weight;
      for (int64_t i = 0; i < columns * depth; ++i)
        weight.push_back(static_cast<int8_t>(static_cast<int>(i * 37 % 255) - 127));
      for (const float* const added : {bias.data(), static_cast<const float*>(nullptr)}) {
        const std::vector<float> out = int8_products(x, weight, scale, added, rows);
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t c = 0; c < columns; ++c) {
            double sum = 0, weights = 0, largest = 0;
            for (int64_t i = 0; i < depth; ++i) {
              const double value = x[static_cast<size_t>(r * depth + i)];
              sum += value * weight[static_cast<size_t>(c * depth + i)];
              weights += std::abs(weight[static_cast<size_t>(c * depth + i)]);
              largest = std::max(largest, std::abs(value));
            }
            const double rounding = largest / 32767 / 2 * weights * std::abs(static_cast<double>(scale[c]));
            const double expected = sum * static_cast<double>(scale[c]) + (added == nullptr ? 0 : added[c]);
            ASSERT_NEAR(out[static_cast<size_t>(r * columns + c)], expected,
                        1.001 * rounding + 1e-6 * std::abs(expected) + 1e-6)
                << r << ' ' << c;
          }
          // A row alone gives the same result bit for bit.
          const std::vector<float> alone =
              int8_products(std::span(x).subspan(r * depth, depth), weight, scale, added, 1);
          ASSERT_TRUE(std::equal(alone.begin(), alone.end(), out.begin() + r * columns)) << r;
        }
      }
    }
  }
}

TEST(SkinnyGemm, WithInt8WeightsSumsTheLargestProductsExactly) {
  const int64_t depth = 20000;  // 32-bit sums would overflow
  const std::vector<float> x(depth, 2), scale{0.5F};
  const std::vector<int8_t> weight(depth, -128);
  EXPECT_FLOAT_EQ(int8_products(x, weight, scale, nullptr, 1)[0], -128.0F * depth);
}

TEST(SkinnyGemm, WithInt8WeightsTakesActivationsOfAnySize) {
  const std::vector<int8_t> weight(40, 1);
  const std::vector<float> scale{1}, bias{3};
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> x(40, 1);
    x[33] = bad;
    EXPECT_TRUE(std::isnan(int8_products(x, weight, scale, bias.data(), 1)[0]));
  }
  EXPECT_EQ(int8_products(std::vector<float>(40, 1e-40F), weight, scale, bias.data(), 1)[0], 3);
  EXPECT_FLOAT_EQ(int8_products(std::vector<float>(40, 1e30F), weight, scale, bias.data(), 1)[0], 4e31F);
}

}  // namespace
}  // namespace perceiver
