#include "kernels/elementwise.h"

#include <gtest/gtest.h>

#include <numeric>

#include "perceiver/experimental/random.h"
#include "train/optimizer.h"

namespace perceiver {
namespace {

TEST(Swap, ExchangesContents) {
  std::vector<float> a(50000), b(50000);
  std::iota(a.begin(), a.end(), 0.0f);
  std::iota(b.begin(), b.end(), 0.5f);
  const std::vector<float> a_before = a, b_before = b;
  kernels::swap({}, {.type = DType::f32, .elements = 50000, .a = a.data(), .b = b.data()});
  EXPECT_EQ(a, b_before);
  EXPECT_EQ(b, a_before);
}

TEST(Scale, RoundsOnceAndWorksInPlace) {
  std::vector<float> x(50000);
  std::iota(x.begin(), x.end(), 0.25f);
  std::vector<double> wide(x.size() + 1, -1);
  kernels::scale({}, {.from = DType::f32,
                      .to = DType::f64,
                      .elements = 50000,
                      .factor = 3,
                      .x = x.data(),
                      .y = wide.data()});
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(wide[i], 3.0 * static_cast<double>(x[i]));
  EXPECT_EQ(wide.back(), -1);
  std::vector<float> half = x;
  kernels::scale({}, {.from = DType::f32,
                      .to = DType::f32,
                      .elements = 50000,
                      .factor = 0.5,
                      .x = half.data(),
                      .y = half.data()});
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(half[i], x[i] / 2);
}

}  // namespace
}  // namespace perceiver
