#include <gtest/gtest.h>

#include "kernels/embedding.h"
#include "kernels/loss.h"
#include "tests/support/cuda_check.h"

namespace perceiver {
namespace {

using namespace testing;

template <typename T>
class CudaEmbedding : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaEmbedding, ElementTypes);

struct MatrixSize {
  int64_t rows, columns;
};

TYPED_TEST(CudaEmbedding, SumsTableRows) {
  using T = TypeParam;
  for (const MatrixSize& size : {MatrixSize{300, 512}, {65, 48}, {33, 7}, {5, 1}, {9, 264}})
    for (const int tables : {1, 3}) {
      const auto [rows, columns] = size;
      const Ints ids = random_ints(rows * 4, 1, 21);
      const DeviceArray<int32_t> a_ids(ids);
      Values table[3], expected(static_cast<size_t>(rows * columns));
      std::vector<std::unique_ptr<Array<T>>> a_table;
      const Array<T> out(rows * columns);
      kernels::Embedding host{DType::f64, rows, columns, tables, {}, {}, {}, expected.data()};
      kernels::Embedding device{kType<T>, rows, columns, tables, {}, {}, {}, out.data()};
      for (int t = 0; t < tables; ++t) {
        table[t] = random_values<T>(21 * columns, 2 + static_cast<uint32_t>(t));
        a_table.push_back(std::make_unique<Array<T>>(table[t]));
        host.table[t] = table[t].data(), device.table[t] = a_table.back()->data();
        host.ids[t] = ids.data() + t, device.ids[t] = a_ids.data() + t;
        host.id_stride[t] = device.id_stride[t] = 1 + t;
      }
      kernels::cpu::embedding(host);
      kernels::embedding(this->launch(), device);
      expect_close(out.read(), expected, bound_of<T>(), "out");
    }
}

}  // namespace
}  // namespace perceiver
