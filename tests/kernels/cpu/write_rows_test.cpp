#include <gtest/gtest.h>

#include "core/device_context.h"
#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/sampling.h"
#include "tests/support/cpu_kernels.h"

namespace perceiver {
namespace {

TEST(WriteRows, WrapsAround) {
  const std::vector<float> source{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};  // 3 slots of 2 rows of 2
  std::vector<float> cache(3 * 4 * 2, 0);
  const std::vector<int32_t> row{3, 1, 0}, active{1, 0, 1};
  kernels::cpu::write_rows({.type = DType::f32,
                            .slots = 3,
                            .copies = 2,
                            .columns = 2,
                            .source = source.data(),
                            .source_stride = 2,
                            .row = row.data(),
                            .active = active.data(),
                            .target = cache.data(),
                            .capacity = 4});
  const std::vector<float> expected{3, 4, 0, 0, 0, 0,  1,  2,  0, 0, 0, 0,
                                    0, 0, 0, 0, 9, 10, 11, 12, 0, 0, 0, 0};
  EXPECT_EQ(cache, expected);
}

}  // namespace
}  // namespace perceiver
