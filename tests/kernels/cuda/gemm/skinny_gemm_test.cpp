#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/sampling.h"
#include "tests/support/cuda_check.h"

namespace perceiver::testing {
namespace {

template <typename T>
class CudaSkinnyGemm : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaSkinnyGemm, ElementTypes);

TYPED_TEST(CudaSkinnyGemm, MatchesTheCpu) {
  using T = TypeParam;
  for (const auto& [rows, columns, depth] :
       {std::tuple{1, 1, 1}, {3, 70, 100}, {5, 259, 1024}, {9, 33, 4096}, {64, 40, 77}}) {
    const Values x = random_values<T>(rows * depth, 1), weight = random_values<T>(columns * depth, 2),
                 bias = random_values<T>(columns, 3);
    Values expected(static_cast<size_t>(rows * columns));
    kernels::cpu::skinny_gemm({DType::f64, DType::f64, rows, columns, depth, x.data(), weight.data(),
                               bias.data(), expected.data()});
    const Array<T> x_device(x), weight_device(weight), bias_device(bias), out(rows * columns), alone(columns);
    kernels::cuda::skinny_gemm(this->launch(), {kType<T>, kType<T>, rows, columns, depth, x_device.data(),
                                                weight_device.data(), bias_device.data(), out.data()});
    const Values all = out.read();
    expect_close(all, expected, {bound_of<T>().relative, 1e-4}, "products");
    for (int64_t r = 0; r < rows; ++r) {
      kernels::cuda::skinny_gemm(this->launch(),
                                 {kType<T>, kType<T>, 1, columns, depth, x_device.data() + r * depth,
                                  weight_device.data(), bias_device.data(), alone.data()});
      const Values row = alone.read();
      ASSERT_TRUE(std::equal(row.begin(), row.end(), all.begin() + r * columns))
          << "row " << r << " of " << rows;
    }
  }
}

}  // namespace
}  // namespace perceiver::testing
