#include <gtest/gtest.h>

#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/sampling.h"
#include "perceiver/experimental/device_context.h"
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

TEST(ShareSlots, FindsARanksPartOfRingBuffers) {
  // Of 7 rows rank 0 has 0, 3 and 6, rank 1 has 1 and 4, rank 2 has 2 and 5.
  const std::vector<int32_t> active{1, 1, 0, 1, 1}, count{7, 7, 7, 1, 0}, row{6, 4, 3, 0, 0};
  const std::vector<int32_t> expected_count[] = {{3, 3, 3, 1, 0}, {2, 2, 2, 0, 0}, {2, 2, 2, 0, 0}},
                             expected_active[] = {{1, 0, 0, 1, 1}, {0, 1, 0, 0, 0}, {0, 0, 0, 0, 0}};
  for (int32_t rank = 0; rank < 3; ++rank) {
    std::vector<int32_t> own_active(5, -9), own_count(5, -9), own_row(5, -9);
    kernels::cpu::share_slots({.slots = 5,
                               .rank = rank,
                               .ranks = 3,
                               .active = active.data(),
                               .count = count.data(),
                               .row = row.data(),
                               .own_active = own_active.data(),
                               .own_count = own_count.data(),
                               .own_row = own_row.data()});
    EXPECT_EQ(own_active, expected_active[rank]);
    EXPECT_EQ(own_count, expected_count[rank]);
    EXPECT_EQ(own_row, (std::vector<int32_t>{2, 1, 1, 0, 0}));
  }
}

}  // namespace
}  // namespace perceiver
