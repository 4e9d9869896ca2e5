#include "kernels/gemm.h"

#include <gtest/gtest.h>

#include <bit>

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
  for (const int64_t rows : {1, 2, 3, 4, 5, 9, 64})
    for (const auto& [columns, depth] : {std::pair{1, 1}, {7, 5}, {13, 64}, {33, 100}, {160, 257}}) {
      check_products<float>(rows, columns, depth);
      check_products<double>(rows, columns, depth);
    }
}

TEST(SkinnyGemm, WithBf16WeightsUsesTheRoundedValues) {
  const int64_t rows = 3, columns = 21, depth = 70;
  const auto x = as<float>(normal(rows * depth, 1)), given = as<float>(normal(columns * depth, 2));
  std::vector<uint16_t> bf16;
  std::vector<float> rounded;
  for (const float value : given) {
    bf16.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16));
    rounded.push_back(std::bit_cast<float>(static_cast<uint32_t>(bf16.back()) << 16));
  }
  std::vector<float> out(rows * columns), expected(rows * columns);
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
  EXPECT_EQ(out, expected);
}

}  // namespace
}  // namespace perceiver
