#include "kernels/ranks.h"

#include <gtest/gtest.h>

#include <vector>

namespace perceiver {
namespace {

TEST(SumPieces, AddsInOrderOfThePieces) {
  // 1e8 + 1 is 1e8 in f32, so that the order shows.
  const std::vector<float> others{1e8f, 1, -1e8f, 2};  // pieces 0 and 2, of two elements
  std::vector<float> sum{3, 4};
  kernels::cpu::sum_pieces(
      {.type = DType::f32, .elements = 2, .own = 1, .count = 3, .others = others.data(), .sum = sum.data()});
  EXPECT_EQ(sum, (std::vector<float>{0, 7}));
  sum = {3, 4};
  kernels::cpu::sum_pieces(
      {.type = DType::f32, .elements = 2, .own = 2, .count = 3, .others = others.data(), .sum = sum.data()});
  EXPECT_EQ(sum, (std::vector<float>{3, 7}));
}

}  // namespace
}  // namespace perceiver
