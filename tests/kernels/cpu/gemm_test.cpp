#include "kernels/gemm.h"

#include <dnnl.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "perceiver/error.h"
#include "perceiver/experimental/device_context.h"
#include "tests/support/cpu_kernels.h"

namespace perceiver {
namespace {

using testing::as;
using testing::normal;

/// C [m, n] = A [m, k] times B, on so many threads; accumulating on ones.
std::vector<float> product(const std::vector<float>& a, const std::vector<float>& b, int64_t m, int64_t n,
                           int64_t k, bool transpose_b, bool accumulate, int threads) {
  std::vector<float> c(static_cast<size_t>(m * n), 1.0f);
  const auto context = DeviceContext::cpu(threads);
  kernels::gemm(context->launch(), {.type = DType::f32,
                                    .out_type = DType::f32,
                                    .transpose_b = transpose_b,
                                    .m = m,
                                    .n = n,
                                    .k = k,
                                    .a = a.data(),
                                    .lda = k,
                                    .b = b.data(),
                                    .ldb = transpose_b ? k : n,
                                    .c = c.data(),
                                    .ldc = n,
                                    .accumulate = accumulate});
  return c;
}

// What one sequence is, and one rank, must not show in another's numbers.
TEST(Gemm, ARowHasTheSameBitsInAnyNumberOfRowsAndOnAnyNumberOfThreads) {
  if ((dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core)
    GTEST_SKIP() << "is about products with AVX2";
  constexpr int64_t most = 300;
  for (const int64_t n : {8, 32, 259})
    for (const int64_t k : {5, 32, 300})
      for (const bool transpose_b : {false, true})
        for (const bool accumulate : {false, true}) {
          const auto a = as<float>(normal(static_cast<size_t>(most * k), 1)),
                     b = as<float>(normal(static_cast<size_t>(n * k), 2));
          const std::vector<float> whole = product(a, b, most, n, k, transpose_b, accumulate, 1);
          for (const int threads : {1, 2, 5})
            for (const int64_t m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 32, 33, 49, 148, 149, 150, 299}) {
              const std::vector<float> part = product(a, b, m, n, k, transpose_b, accumulate, threads);
              ASSERT_TRUE(std::equal(part.begin(), part.end(), whole.begin()))
                  << m << " rows of " << n << ", depth " << k << ", " << threads << " threads";
            }
        }
}

TEST(Gemm, AnErrorInsideAKernelIsCaughtOutside) {
  float values[16] = {};
  const kernels::Gemm impossible{.type = DType::f32,
                                 .out_type = DType::f32,
                                 .m = 4,
                                 .n = 2,
                                 .k = 2,
                                 .a = values,
                                 .lda = 1,
                                 .b = values,
                                 .ldb = 2,
                                 .c = values,
                                 .ldc = 2};
  try {
    kernels::cpu::gemm(impossible);
    FAIL() << "rows of two elements, one apart";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::failure);
  }
}

}  // namespace
}  // namespace perceiver
