#include <gtest/gtest.h>

#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/norm.h"
#include "tests/support/cuda_check.h"
#include "tests/support/dropout_masks.h"

namespace perceiver {
namespace {

using testing::Masks;

using namespace testing;

template <typename T>
class CudaDropout : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaDropout, ElementTypes);

/// With ones for input, what dropout leaves is the mask.
TYPED_TEST(CudaDropout, DropoutMasksAreThoseOfTheCpu) {
  using T = TypeParam;
  for (const int64_t first : {0, 1, 2, 3, 4, 1027}) {
    const int64_t n = 5003;
    const Masks masks(0.25, (int64_t{1} << 34) - 64 + first);
    const Values ones(static_cast<size_t>(n), 1.0);
    Values expected(ones);
    kernels::cpu::dropout({DType::f64, n, ones.data(), masks.host, expected.data(), false});
    for (const int64_t shift : {0, 1}) {
      const Array<T> x(ones, shift), y(n, shift);
      kernels::dropout(this->launch(), {kType<T>, n, x.data(), masks.device, y.data(), false});
      EXPECT_EQ(y.read(), rounded<T>(rounded<float>(expected)));
      kernels::dropout(this->launch(), {kType<T>, n, x.data(), masks.device, x.data(), false});
      EXPECT_EQ(x.read(), y.read());
    }
    const Array<T> branch(ones), sum(n);
    kernels::residual_layer_norm(this->launch(), {kType<T>, n, 1, nullptr, branch.data(), masks.device,
                                                  sum.data(), nullptr, nullptr, nullptr, nullptr, nullptr});
    EXPECT_EQ(sum.read(), rounded<T>(rounded<float>(expected)));
  }
}

TYPED_TEST(CudaDropout, DropoutAccumulatesAndCopies) {
  using T = TypeParam;
  const int64_t n = 1030;
  for (const double rate : {0.0, 0.3}) {
    const Masks masks(rate, 5);
    const Values x = random_values<T>(n, 1), old = random_values<T>(n, 2);
    Values expected(old);
    kernels::cpu::dropout({DType::f64, n, x.data(), masks.host, expected.data(), true});
    const Array<T> a_x(x), a_y(old);
    kernels::DropoutMask mask = masks.device;
    if (rate == 0) mask.step = nullptr;
    kernels::dropout(this->launch(), {kType<T>, n, a_x.data(), mask, a_y.data(), true});
    expect_close(a_y.read(), expected, bound_of<T>(), "y");
  }
}

}  // namespace
}  // namespace perceiver
