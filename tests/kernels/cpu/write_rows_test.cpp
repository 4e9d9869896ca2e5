#include <gtest/gtest.h>

#include "core/device_context.h"
#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/sampling.h"
#include "tests/support/cpu_kernels.h"

namespace perceiver {
namespace {

TEST(WriteRows, RowsJoinTheirRings) {
  const std::vector<float> source{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};  // 3 slots of 2 rows of 2
  std::vector<float> rings(3 * 4 * 2, 0);
  const std::vector<int32_t> row{3, 1, 0}, active{1, 0, 1};
  kernels::cpu::write_rows(
      {DType::f32, 3, 2, 2, source.data(), 2, row.data(), active.data(), rings.data(), 4});
  const std::vector<float> expected{3, 4, 0, 0, 0, 0,  1,  2,  0, 0, 0, 0,
                                    0, 0, 0, 0, 9, 10, 11, 12, 0, 0, 0, 0};
  EXPECT_EQ(rings, expected);
}

}  // namespace
}  // namespace perceiver
