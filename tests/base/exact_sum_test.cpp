#include "base/exact_sum.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "perceiver/experimental/random.h"

namespace perceiver {
namespace {

TEST(ExactSum, DoesNotDependOnTheOrder) {
  RandomStream random(3, RandomPurpose::sampling);
  std::vector<double> terms;
  for (int i = 0; i < 2000; ++i)
    terms.push_back((static_cast<double>(random.below(1 << 30)) - (1 << 29)) / static_cast<double>(1 + i));
  ExactSum forward, backward, first, second;
  double plain = 0, reverse = 0;
  for (size_t i = 0; i < terms.size(); ++i) {
    forward.add(terms[i]);
    backward.add(terms[terms.size() - 1 - i]);
    (i % 3 == 0 ? first : second).add(terms[i]);
    plain += terms[i];
    reverse += terms[terms.size() - 1 - i];
  }
  first.add(second);
  EXPECT_NE(plain, reverse);  // or the test shows nothing
  EXPECT_EQ(forward.value(), backward.value());
  EXPECT_EQ(forward.value(), first.value());
  EXPECT_NEAR(forward.value(), plain, 1e-5);
}

TEST(ExactSum, IsExactForMultiplesOfItsUnit) {
  ExactSum sum;
  sum.add(1e12);
  sum.add(0.125);
  sum.add(-1e12);
  sum.add(-1);
  EXPECT_EQ(sum.value(), -0.875);
}

TEST(ExactSum, WhatIsNotFiniteStaysSo) {
  ExactSum sum;
  sum.add(1);
  sum.add(std::numeric_limits<double>::infinity());
  EXPECT_EQ(sum.value(), std::numeric_limits<double>::infinity());
  sum.add(std::numeric_limits<double>::quiet_NaN());
  EXPECT_TRUE(std::isnan(sum.value()));
  ExactSum large;
  large.add(1e300);
  EXPECT_EQ(large.value(), 1e300);
}

}  // namespace
}  // namespace perceiver
