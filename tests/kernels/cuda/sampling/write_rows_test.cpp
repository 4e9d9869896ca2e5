#include <gtest/gtest.h>

#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/sampling.h"
#include "tests/support/cuda_check.h"

namespace perceiver::testing {
namespace {

template <typename T>
class CudaWriteRows : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaWriteRows, ElementTypes);

TYPED_TEST(CudaWriteRows, RowsJoinTheirRings) {
  using T = TypeParam;
  const Array<T> source(Values{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
  const Array<T> rings(Values(3 * 4 * 2, 0));
  const DeviceArray<int32_t> row(Ints{3, 1, 0}), active(Ints{1, 0, 1});
  kernels::cuda::write_rows(
      this->launch(), {kType<T>, 3, 2, 2, source.data(), 2, row.data(), active.data(), rings.data(), 4});
  EXPECT_EQ(rings.read(),
            (Values{3, 4, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 9, 10, 11, 12, 0, 0, 0, 0}));
}

}  // namespace
}  // namespace perceiver::testing
