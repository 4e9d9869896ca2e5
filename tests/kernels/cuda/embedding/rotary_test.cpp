#include <gtest/gtest.h>

#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/norm.h"
#include "tests/support/cuda_check.h"
#include "tests/support/dropout_masks.h"

namespace perceiver {
namespace {

using namespace testing;

template <typename T>
class CudaRotary : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaRotary, ElementTypes);

struct RotaryCase {
  int64_t rows, stride, heads, head_dim, bands, shift = 0;
};

TYPED_TEST(CudaRotary, Rotary) {
  using T = TypeParam;
  const RotaryCase cases[] = {{70, 192, 3, 64, 32},  {70, 200, 3, 64, 16}, {9, 50, 2, 20, 5},
                              {33, 64, 1, 64, 4, 1}, {5, 3, 1, 3, 1},      {40, 512, 8, 64, 2}};
  for (const RotaryCase& c : cases) {
    const int64_t positions = 50, n = c.rows * c.stride;
    const Values x = random_values<T>(n, 1), angles = random_values<float>(positions * c.bands, 2, 3);
    Values cosine(angles), sine(angles);
    for (size_t i = 0; i < angles.size(); ++i) {
      cosine[i] = widen(static_cast<float>(std::cos(angles[i])));
      sine[i] = widen(static_cast<float>(std::sin(angles[i])));
    }
    Ints at = random_ints(c.rows, 3, 99);
    for (int32_t& position : at) position -= 49;
    const DeviceArray<int32_t> a_at(at);
    const Array<float> a_cosine(cosine), a_sine(sine);
    for (const int direction : {1, -1}) {
      Values expected(x);
      kernels::cpu::rotary({DType::f64, c.rows, c.stride, c.heads, c.head_dim, c.bands, expected.data(),
                            at.data(), cosine.data(), sine.data(), direction});
      const Array<T> a_x(x, c.shift);
      kernels::rotary(this->launch(), {kType<T>, c.rows, c.stride, c.heads, c.head_dim, c.bands, a_x.data(),
                                       a_at.data(), a_cosine.data(), a_sine.data(), direction});
      expect_close(a_x.read(), expected, bound_of<T>(), "x");
    }
  }
}

}  // namespace
}  // namespace perceiver
