#include <gtest/gtest.h>

#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/norm.h"
#include "tests/support/cuda_check.h"
#include "tests/support/dropout_masks.h"

namespace perceiver {
namespace {

using testing::Masks;

using namespace testing;

template <typename T>
class CudaLayerNorm : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaLayerNorm, ElementTypes);

struct NormCase {
  int64_t rows, columns;
  double rate = 0;
  int64_t first = 0, shift = 0;
  bool residual = true, branch = true, norm = true;
};

const NormCase kNormCases[] = {{9, 512},
                               {5, 1024, 0.3},
                               {6, 8192},
                               {3, 1280, 0.2, 4},
                               {7, 1, 0.5},
                               {4, 259, 0.4, 3},
                               {10, 48, 0.3, 1},
                               {5, 64, 0.3, 2, 1},
                               {2, 8191, 0.1, 5},
                               {33, 256, 0, 0, 0, false},
                               {8, 512, 0.5, 6, 0, false},
                               {9, 768, 0, 0, 0, true, false},
                               {5, 33, 0, 0, 0, true, false},
                               {6, 520, 0.3, 3, 0, true, true, false},
                               {3, 17, 0.3, 0, 0, false, true, false}};

template <typename T>
void check_norm(const Launch& launch, const NormCase& c) {
  SCOPED_TRACE(::testing::Message() << c.rows << " x " << c.columns << " rate " << c.rate);
  const int64_t n = c.rows * c.columns;
  const Values residual = random_values<T>(n, 1, 2, 0.5), branch = random_values<T>(n, 2),
               scale = random_values<T>(c.columns, 3), offset = random_values<T>(c.columns, 4);
  const Masks masks(c.rate, c.first);
  Values sum(residual);
  if (c.branch) {
    kernels::cpu::residual_layer_norm({DType::f64, c.rows, c.columns, c.residual ? residual.data() : nullptr,
                                       branch.data(), masks.host, sum.data(), nullptr, nullptr, nullptr,
                                       nullptr, nullptr});
  }
  // The device normalises what it has stored.
  const Values stored = rounded<T>(sum);
  Values y(sum), mean(static_cast<size_t>(c.rows)), rstd(mean);
  kernels::cpu::residual_layer_norm({DType::f64,
                                     c.rows,
                                     c.columns,
                                     stored.data(),
                                     nullptr,
                                     {},
                                     nullptr,
                                     scale.data(),
                                     offset.data(),
                                     y.data(),
                                     mean.data(),
                                     rstd.data()});

  const Array<T> d_residual(residual, c.shift), d_branch(branch, c.shift), d_scale(scale), d_offset(offset),
      d_sum(n, c.shift), d_y(n, c.shift);
  const Array<float> d_mean(c.rows), d_rstd(c.rows);
  kernels::residual_layer_norm(
      launch, {kType<T>, c.rows, c.columns, c.residual ? d_residual.data() : nullptr,
               c.branch ? d_branch.data() : nullptr, masks.device, c.branch ? d_sum.data() : nullptr,
               d_scale.data(), d_offset.data(), c.norm ? d_y.data() : nullptr, d_mean.data(), d_rstd.data()});
  if (c.branch) expect_close(d_sum.read(), sum, bound_of<T>(), "sum");
  if (!c.norm) return;
  expect_close(d_mean.read(), mean, {1e-5, 1e-5}, "mean");
  expect_close(d_rstd.read(), rstd, {2e-5, 1e-5}, "rstd");
  // Where bf16 rounded the sum otherwise than expected, by a tie, y differs by as much.
  expect_close(d_y.read(), y, {bound_of<T>().relative, sizeof(T) == 2 ? 4e-3 : 2e-5}, "y");
}

TYPED_TEST(CudaLayerNorm, LayerNorm) {
  for (const NormCase& c : kNormCases) check_norm<TypeParam>(this->launch(), c);
}

struct NormBackwardCase {
  int64_t rows, columns;
  double rate = 0;
  int64_t first = 0, shift = 0;
  bool d_sum = true, accumulate_x = false, d_branch = false, scale = true, offset = true, accumulate = false;
};

const NormBackwardCase kNormBackwardCases[] = {{900, 512},
                                               {1700, 1024, 0.3, 0, 0, true, false, true},
                                               {40, 8192, 0.2, 4, 0, false, false, true},
                                               {300, 1280, 0, 0, 0, true, true},
                                               {7, 1, 0.5, 0, 0, true, false, true},
                                               {50, 259, 0.4, 3, 0, true, false, true, true, true, true},
                                               {21, 64, 0.3, 1, 1, true, false, true},
                                               {3, 48, 0, 0, 0, false, true, false, true, false, true},
                                               {5, 8191, 0.1, 2, 0, true, false, true, false, true},
                                               {11, 256, 0, 0, 0, false, false, true, false, false}};

template <typename T>
void check_norm_backward(const Launch& launch, const NormBackwardCase& c) {
  SCOPED_TRACE(::testing::Message() << c.rows << " x " << c.columns << " rate " << c.rate);
  const int64_t n = c.rows * c.columns;
  const Values x = random_values<T>(n, 1, 2, 0.5), d_y = random_values<T>(n, 2),
               scale = random_values<T>(c.columns, 3), d_sum = random_values<T>(n, 4),
               old = random_values<T>(n, 5), old_scale = random_values<float>(c.columns, 6),
               old_offset = random_values<float>(c.columns, 7);
  const Masks masks(c.rate, c.first);
  Values y(x), mean(static_cast<size_t>(c.rows)), rstd(mean);
  kernels::cpu::residual_layer_norm({DType::f64,
                                     c.rows,
                                     c.columns,
                                     x.data(),
                                     nullptr,
                                     {},
                                     nullptr,
                                     scale.data(),
                                     scale.data(),
                                     y.data(),
                                     mean.data(),
                                     rstd.data()});
  mean = rounded<float>(mean), rstd = rounded<float>(rstd);
  const auto branch_alone = [&](Values d_x) {  // dropout of d_x as stored
    Values d_branch = rounded<T>(d_x);
    if (c.rate > 0)
      kernels::cpu::dropout({DType::f64, n, d_branch.data(), masks.host, d_branch.data(), false});
    return d_branch;
  };
  Values d_x(old), d_scale(old_scale), d_offset(old_offset);
  kernels::cpu::residual_layer_norm_backward({DType::f64,
                                              c.rows,
                                              c.columns,
                                              x.data(),
                                              scale.data(),
                                              mean.data(),
                                              rstd.data(),
                                              d_y.data(),
                                              c.d_sum ? d_sum.data() : nullptr,
                                              d_x.data(),
                                              c.accumulate_x,
                                              {},
                                              nullptr,
                                              d_scale.data(),
                                              d_offset.data(),
                                              c.accumulate,
                                              c.accumulate});

  const Array<T> a_x(x, c.shift), a_scale(scale), a_d_y(d_y, c.shift), a_d_sum(d_sum, c.shift),
      a_d_x(old, c.shift), a_d_branch(n, c.shift);
  const Array<float> a_mean(mean), a_rstd(rstd), a_d_scale(old_scale), a_d_offset(old_offset);
  kernels::residual_layer_norm_backward(
      launch, {kType<T>, c.rows, c.columns, a_x.data(), a_scale.data(), a_mean.data(), a_rstd.data(),
               a_d_y.data(), c.d_sum ? a_d_sum.data() : nullptr, a_d_x.data(), c.accumulate_x, masks.device,
               c.d_branch ? a_d_branch.data() : nullptr, c.scale ? a_d_scale.data() : nullptr,
               c.offset ? a_d_offset.data() : nullptr, c.accumulate, c.accumulate});
  const Bound bound{bound_of<T>().relative, 3e-5};
  expect_close(a_d_x.read(), d_x, bound, "d_x");
  if (c.d_branch) expect_close(a_d_branch.read(), branch_alone(a_d_x.read()), bound_of<T>(), "d_branch");
  expect_close(a_d_scale.read(), c.scale ? d_scale : old_scale, {1e-5, 3e-5}, "d_scale");
  expect_close(a_d_offset.read(), c.offset ? d_offset : old_offset, {1e-5, 3e-5}, "d_offset");
}

TYPED_TEST(CudaLayerNorm, LayerNormBackward) {
  for (const NormBackwardCase& c : kNormBackwardCases) check_norm_backward<TypeParam>(this->launch(), c);
}

TYPED_TEST(CudaLayerNorm, LayerNormBackwardRepeats) {
  using T = TypeParam;
  const int64_t rows = 3000, columns = 520, n = rows * columns;
  const Array<T> x(random_values<T>(n, 1)), d_y(random_values<T>(n, 2)), scale(random_values<T>(columns, 3)),
      d_x(n);
  const Array<float> mean(random_values<float>(rows, 4)), rstd(random_values<float>(rows, 5, 0.1, 1)),
      d_scale(columns), d_offset(columns);
  this->expect_repeatable([] {},
                          [&] {
                            kernels::residual_layer_norm_backward(this->launch(), {kType<T>,
                                                                                   rows,
                                                                                   columns,
                                                                                   x.data(),
                                                                                   scale.data(),
                                                                                   mean.data(),
                                                                                   rstd.data(),
                                                                                   d_y.data(),
                                                                                   nullptr,
                                                                                   d_x.data(),
                                                                                   false,
                                                                                   {},
                                                                                   nullptr,
                                                                                   d_scale.data(),
                                                                                   d_offset.data(),
                                                                                   false,
                                                                                   false});
                          },
                          d_scale);
}

}  // namespace
}  // namespace perceiver
