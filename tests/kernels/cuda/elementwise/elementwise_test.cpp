// CUDA kernels over flat arrays against the CPU's in f64.
#include <gtest/gtest.h>

#include <limits>

#include "kernels/elementwise.h"
#include "tests/support/cuda_check.h"

namespace perceiver::testing {
namespace {

template <typename T>
class CudaElementwise : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaElementwise, ElementTypes);

constexpr int64_t kSizes[] = {1, 7, 1024, 5001, 100003};

TYPED_TEST(CudaElementwise, Add) {
  using T = TypeParam;
  for (const int64_t n : kSizes)
    for (const int64_t shift : {0, 1}) {
      const Values source = random_values<T>(n, 1), target = random_values<T>(n, 2);
      Values expected(target);
      kernels::cpu::add(
          {.type = DType::f64, .elements = n, .source = source.data(), .target = expected.data()});
      const Array<T> a_source(source), a_target(target, shift);
      kernels::add(this->launch(),
                   {.type = kType<T>, .elements = n, .source = a_source.data(), .target = a_target.data()});
      expect_close(a_target.read(), expected, bound_of<T>(), "target");
    }
}

TYPED_TEST(CudaElementwise, CastRoundsToNearest) {
  using T = TypeParam;
  for (const int64_t n : kSizes)
    for (const int64_t shift : {0, 1}) {
      const Values x = random_values<T>(n, 1);
      const Array<T> a_x(x, shift);
      const Array<float> wide(n);
      const Array<bf16> narrow_one(n);
      kernels::cast(this->launch(),
                    {.from = kType<T>, .to = DType::f32, .elements = n, .x = a_x.data(), .y = wide.data()});
      kernels::cast(
          this->launch(),
          {.from = kType<T>, .to = DType::bf16, .elements = n, .x = a_x.data(), .y = narrow_one.data()});
      EXPECT_EQ(wide.read(), x);
      EXPECT_EQ(narrow_one.read(), rounded<bf16>(x));
    }
}

TYPED_TEST(CudaElementwise, CastsToAndFromEightBits) {
  using T = TypeParam;
  Values x = random_values<T>(1000, 1, 2);
  for (const double special : {0.0, 448.0, 460.0, -1e6, 0x1p-9, 0x1p-10, 0x1.8p-9}) x.push_back(special);
  x = rounded<T>(x);
  const auto n = static_cast<int64_t>(x.size());
  for (const int64_t shift : {0, 1}) {
    const Array<T> a_x(x, shift), back(n);
    const DeviceArray<uint8_t> codes(x.size());
    kernels::cast(this->launch(),
                  {.from = kType<T>, .to = DType::e4m3, .elements = n, .x = a_x.data(), .y = codes.data()});
    kernels::cast(this->launch(),
                  {.from = DType::e4m3, .to = kType<T>, .elements = n, .x = codes.data(), .y = back.data()});
    Values expected = x;
    EXPECT_EQ(codes.read(), rounded_to_e4m3(expected));
    EXPECT_EQ(back.read(), expected);
  }
  const DeviceArray<uint8_t> not_numbers({0x7f, 0xff});
  const Array<T> wide(2);
  kernels::cast(
      this->launch(),
      {.from = DType::e4m3, .to = kType<T>, .elements = 2, .x = not_numbers.data(), .y = wide.data()});
  for (const double y : wide.read()) EXPECT_TRUE(std::isnan(y));
}

TYPED_TEST(CudaElementwise, Scale) {
  using T = TypeParam;
  for (const int64_t n : kSizes)
    for (const int64_t shift : {0, 1}) {
      const Values x = random_values<T>(n, 1);
      Values tripled = x;
      for (double& v : tripled) v *= 3;
      const Array<T> a_x(x, shift);
      const Array<float> wide(n);
      const Array<bf16> narrow_one(n);
      kernels::scale(this->launch(), {.from = kType<T>,
                                      .to = DType::f32,
                                      .elements = n,
                                      .factor = 3,
                                      .x = a_x.data(),
                                      .y = wide.data()});
      kernels::scale(this->launch(), {.from = kType<T>,
                                      .to = DType::bf16,
                                      .elements = n,
                                      .factor = 3,
                                      .x = a_x.data(),
                                      .y = narrow_one.data()});
      kernels::scale(
          this->launch(),
          {.from = kType<T>, .to = kType<T>, .elements = n, .factor = 3, .x = a_x.data(), .y = a_x.data()});
      const Values once = rounded<float>(tripled);
      EXPECT_EQ(wide.read(), once);
      EXPECT_EQ(narrow_one.read(), rounded<bf16>(once));
      EXPECT_EQ(a_x.read(), rounded<T>(once));
    }
}

TYPED_TEST(CudaElementwise, Swap) {
  using T = TypeParam;
  for (const int64_t n : kSizes)
    for (const int64_t shift : {0, 1}) {
      const Values a = random_values<T>(n, 1), b = random_values<T>(n, 2);
      const Array<T> a_a(a), a_b(b, shift);
      kernels::swap(this->launch(), {.type = kType<T>, .elements = n, .a = a_a.data(), .b = a_b.data()});
      EXPECT_EQ(a_a.read(), b);
      EXPECT_EQ(a_b.read(), a);
    }
}

TYPED_TEST(CudaElementwise, SumOfSquares) {
  using T = TypeParam;
  for (const int64_t n : kSizes)
    for (const int64_t shift : {0, 1}) {
      const Values x = random_values<T>(n, 1);
      double expected = 0;
      kernels::cpu::sum_of_squares({.type = DType::f64, .elements = n, .x = x.data(), .sum = &expected});
      const Array<T> a_x(x, shift);
      const DeviceArray<double> sum(1);
      kernels::sum_of_squares(this->launch(),
                              {.type = kType<T>, .elements = n, .x = a_x.data(), .sum = sum.data()});
      expect_close(sum.read(), {expected}, {1e-12, 0}, "sum");
    }
}

TYPED_TEST(CudaElementwise, SumOfSquaresRepeats) {
  using T = TypeParam;
  const int64_t n = 300001;
  const Array<T> x(random_values<T>(n, 1));
  const Array<double> sum(1);
  this->expect_repeatable([] {},
                          [&] {
                            kernels::sum_of_squares(
                                this->launch(),
                                {.type = kType<T>, .elements = n, .x = x.data(), .sum = sum.data()});
                          },
                          sum);
}

TYPED_TEST(CudaElementwise, CountNonFinite) {
  using T = TypeParam;
  for (const int64_t n : kSizes) {
    Values x = random_values<T>(n, 1);
    for (size_t i = 0; i < x.size(); i += 1000) x[i] = std::numeric_limits<double>::quiet_NaN();
    for (size_t i = 5; i < x.size(); i += 700) x[i] = -std::numeric_limits<double>::infinity();
    x.back() = std::numeric_limits<double>::infinity();
    int64_t expected = 0;
    kernels::cpu::count_non_finite({.type = DType::f64, .elements = n, .x = x.data(), .count = &expected});
    const Array<T> a_x(x);
    const DeviceArray<int64_t> count(1);
    kernels::count_non_finite(this->launch(),
                              {.type = kType<T>, .elements = n, .x = a_x.data(), .count = count.data()});
    EXPECT_EQ(count.read()[0], expected);
  }
}

TYPED_TEST(CudaElementwise, NothingToDo) {
  using T = TypeParam;
  const DeviceArray<double> sum(1);
  const DeviceArray<int64_t> count(1);
  kernels::sum_of_squares(this->launch(), {.type = kType<T>, .elements = 0, .x = nullptr, .sum = sum.data()});
  kernels::count_non_finite(this->launch(),
                            {.type = kType<T>, .elements = 0, .x = nullptr, .count = count.data()});
  kernels::add(this->launch(), {.type = kType<T>, .elements = 0, .source = nullptr, .target = nullptr});
  EXPECT_EQ(sum.read()[0], 0);
  EXPECT_EQ(count.read()[0], 0);
}

class CudaAdd : public CudaTest {};

TEST_F(CudaAdd, DoublesAreRefused) {
  EXPECT_THROW(
      kernels::add(launch(), {.type = DType::f64, .elements = 1, .source = nullptr, .target = nullptr}),
      std::exception);
}

}  // namespace
}  // namespace perceiver::testing
