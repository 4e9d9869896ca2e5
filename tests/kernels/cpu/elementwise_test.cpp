#include "kernels/elementwise.h"

#include <gtest/gtest.h>

#include <numeric>

#include "base/random.h"
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

}  // namespace
}  // namespace perceiver
