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
class CudaRows : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaRows, ElementTypes);

struct CopiesCase {
  int64_t rows, copies, columns;
};
const CopiesCase kCopiesCases[] = {{50, 3, 512}, {9, 4, 33}, {300, 1, 64}, {1, 7, 5}};

TYPED_TEST(CudaRows, RepeatRows) {
  using T = TypeParam;
  for (const auto& [rows, copies, columns] : kCopiesCases) {
    const int64_t wide = rows * copies * columns;
    const Values x = random_values<T>(rows * columns, 1), encoding = random_values<T>(copies * columns, 2),
                 d_y = random_values<T>(wide, 3), old_encoding = random_values<float>(copies * columns, 4);
    Values y(static_cast<size_t>(wide));
    kernels::cpu::repeat_rows({DType::f64, rows, copies, columns, x.data(), encoding.data(), y.data()});
    const Array<T> a_x(x), a_encoding(encoding), a_y(wide), a_d_y(d_y);
    kernels::repeat_rows(this->launch(),
                         {kType<T>, rows, copies, columns, a_x.data(), a_encoding.data(), a_y.data()});
    expect_close(a_y.read(), y, bound_of<T>(), "y");
    for (const bool accumulate : {false, true}) {
      Values d_x(x), d_encoding(old_encoding);
      kernels::cpu::repeat_rows_backward({DType::f64, rows, copies, columns, d_y.data(), d_x.data(),
                                          accumulate, d_encoding.data(), accumulate});
      const Array<T> a_d_x(x);
      const Array<float> a_d_encoding(old_encoding);
      kernels::repeat_rows_backward(this->launch(),
                                    {kType<T>, rows, copies, columns, a_d_y.data(), a_d_x.data(), accumulate,
                                     a_d_encoding.data(), accumulate});
      expect_close(a_d_x.read(), d_x, bound_of<T>(), "d_x");
      expect_close(a_d_encoding.read(), d_encoding, {1e-5, 1e-5}, "d_encoding");
      kernels::repeat_rows_backward(
          this->launch(), {kType<T>, rows, copies, columns, a_d_y.data(), nullptr, false, nullptr, false});
    }
  }
}

TYPED_TEST(CudaRows, AverageRows) {
  using T = TypeParam;
  for (const auto& [rows, copies, columns] : kCopiesCases) {
    const int64_t wide = rows * copies * columns;
    const Values x = random_values<T>(wide, 1), d_y = random_values<T>(rows * columns, 2);
    Values y(d_y);
    kernels::cpu::average_rows({DType::f64, rows, copies, columns, x.data(), y.data()});
    const Array<T> a_x(x), a_y(rows * columns), a_d_y(d_y);
    kernels::average_rows(this->launch(), {kType<T>, rows, copies, columns, a_x.data(), a_y.data()});
    expect_close(a_y.read(), y, bound_of<T>(), "y");
    for (const bool accumulate : {false, true}) {
      Values d_x(x);
      kernels::cpu::average_rows_backward(
          {DType::f64, rows, copies, columns, d_y.data(), d_x.data(), accumulate});
      const Array<T> a_d_x(x);
      kernels::average_rows_backward(
          this->launch(), {kType<T>, rows, copies, columns, a_d_y.data(), a_d_x.data(), accumulate});
      expect_close(a_d_x.read(), d_x, bound_of<T>(), "d_x");
    }
  }
}

}  // namespace
}  // namespace perceiver
