#include "kernels/gemm.h"

#include <dnnl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "perceiver/error.h"
#include "perceiver/experimental/device_context.h"
#include "tests/support/cpu_kernels.h"

namespace perceiver {
namespace {

using testing::as;
using testing::normal;

/// C [m, n] = op(A) op(B), on so many threads; accumulating on ones.
struct Product {
  int64_t m, n, k;
  bool transpose_a, transpose_b, accumulate;
  int threads;

  std::vector<float> of(const std::vector<float>& a, const std::vector<float>& b) const {
    std::vector<float> c(static_cast<size_t>(m * n), 1.0f);
    const auto context = DeviceContext::cpu(threads);
    kernels::gemm(context->launch(), {.type = DType::f32,
                                      .out_type = DType::f32,
                                      .transpose_a = transpose_a,
                                      .transpose_b = transpose_b,
                                      .m = m,
                                      .n = n,
                                      .k = k,
                                      .a = a.data(),
                                      .lda = transpose_a ? m : k,
                                      .b = b.data(),
                                      .ldb = transpose_b ? k : n,
                                      .c = c.data(),
                                      .ldc = n,
                                      .accumulate = accumulate});
    return c;
  }
};

std::vector<float> numbers(int64_t count, uint32_t seed) {
  return as<float>(normal(static_cast<size_t>(count), seed));
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
          const auto a = numbers(most * k, 1), b = numbers(n * k, 2);
          const std::vector<float> whole = Product{most, n, k, false, transpose_b, accumulate, 1}.of(a, b);
          for (const int threads : {1, 2, 5})
            for (const int64_t m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 32, 33, 49, 148, 149, 150, 299}) {
              const std::vector<float> part =
                  Product{m, n, k, false, transpose_b, accumulate, threads}.of(a, b);
              ASSERT_TRUE(std::equal(part.begin(), part.end(), whole.begin()))
                  << m << " rows of " << n << ", depth " << k << ", " << threads << " threads";
            }
        }
}

// The gradient of a weight: the sum over all rows of a batch.
TEST(Gemm, WeightGradientsHaveTheSameBitsOnAnyNumberOfThreads) {
  if ((dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core)
    GTEST_SKIP() << "is about products with AVX2";
  for (const int64_t m : {64, 259, 1024})
    for (const int64_t n : {64, 259, 1024})
      for (const int64_t k : {100, 1024}) {
        const auto a = numbers(m * k, 1), b = numbers(n * k, 2);
        const std::vector<float> alone = Product{m, n, k, true, false, true, 1}.of(a, b);
        for (const int threads : {2, 3, 5}) {
          const std::vector<float> shared = Product{m, n, k, true, false, true, threads}.of(a, b);
          ASSERT_TRUE(shared == alone) << m << " x " << n << ", depth " << k << ", " << threads << " threads";
        }
      }
}

TEST(Gemm, MatchesItsDefinitionInFloat) {
  for (const bool transpose_a : {false, true})
    for (const bool transpose_b : {false, true})
      for (const bool accumulate : {false, true})
        for (const auto& [m, n, k] :
             {std::tuple<int64_t, int64_t, int64_t>{1, 1, 1}, {7, 5, 300}, {97, 1040, 40}, {200, 33, 600}}) {
          const auto a = numbers(m * k, 1), b = numbers(n * k, 2);
          const std::vector<float> c = Product{m, n, k, transpose_a, transpose_b, accumulate, 2}.of(a, b);
          for (int64_t i = 0; i < m; ++i)
            for (int64_t j = 0; j < n; ++j) {
              double sum = accumulate ? 1 : 0;
              for (int64_t p = 0; p < k; ++p)
                sum += static_cast<double>(a[static_cast<size_t>(transpose_a ? p * m + i : i * k + p)]) *
                       static_cast<double>(b[static_cast<size_t>(transpose_b ? j * k + p : p * n + j)]);
              ASSERT_NEAR(c[static_cast<size_t>(i * n + j)], sum, 1e-4) << i << ' ' << j;
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
