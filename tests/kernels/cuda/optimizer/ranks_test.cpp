// The kernels of ranks against the CPU's.
#include "kernels/ranks.h"

#include <gtest/gtest.h>

#include "tests/support/cuda_check.h"

namespace perceiver::testing {
namespace {

class CudaRanks : public CudaKernelTest<float> {};

TEST_F(CudaRanks, SumsOfPiecesInTheirOrder) {
  for (const int64_t n : {1, 7, 1024, 100003})
    for (const int64_t count : {1, 2, 3, 8})
      for (int64_t own = 0; own < count; ++own) {
        const Values others = random_values<float>(n * (count - 1), 1), mine = random_values<float>(n, 2);
        std::vector<float> sum(mine.begin(), mine.end());
        const std::vector<float> rest(others.begin(), others.end());
        kernels::cpu::sum_pieces({.type = DType::f32,
                                  .elements = n,
                                  .own = own,
                                  .count = count,
                                  .others = rest.data(),
                                  .sum = sum.data()});
        const Array<float> a_others(others), a_sum(mine);
        kernels::sum_pieces(launch(), {.type = DType::f32,
                                       .elements = n,
                                       .own = own,
                                       .count = count,
                                       .others = a_others.data(),
                                       .sum = a_sum.data()});
        EXPECT_EQ(a_sum.read(), Values(sum.begin(), sum.end())) << n << " of " << count << ", own " << own;
      }
}

}  // namespace
}  // namespace perceiver::testing
