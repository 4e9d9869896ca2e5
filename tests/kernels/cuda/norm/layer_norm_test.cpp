// CUDA kernels of LayerNorm, residual add and dropout against the CPU's in f64.
#include <gtest/gtest.h>

#include "kernels/norm.h"
#include "tests/support/cuda_check.h"

namespace perceiver::testing {
namespace {

template <typename T>
class CudaNorm : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaNorm, ElementTypes);

constexpr uint64_t kStep = 0x1'0000'0007;

/// A mask on host and device; `first` is the number of the first element.
struct Masks {
  uint64_t step = kStep;
  DeviceArray<uint64_t> device_step{std::vector<uint64_t>{kStep}};
  kernels::DropoutMask host, device;

  Masks(double rate, int64_t first) {
    if (rate > 0) {
      host.seed = 0x123456789ABCDEF0;
      host.op = 17;
      host.threshold = static_cast<uint32_t>(rate * 4294967296.0);
      host.scale = 1 / (1 - rate);
      host.first_element = first;
    }
    device = host;
    host.step = &step;
    device.step = device_step.data();
  }
};

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
    kernels::cpu::residual_layer_norm({.type = DType::f64,
                                       .rows = c.rows,
                                       .columns = c.columns,
                                       .residual = c.residual ? residual.data() : nullptr,
                                       .branch = branch.data(),
                                       .mask = masks.host,
                                       .sum = sum.data(),
                                       .scale = nullptr,
                                       .offset = nullptr,
                                       .y = nullptr,
                                       .mean = nullptr,
                                       .rstd = nullptr});
  }
  // The device normalises what it has stored.
  const Values stored = rounded<T>(sum);
  Values y(sum), mean(static_cast<size_t>(c.rows)), rstd(mean);
  kernels::cpu::residual_layer_norm({.type = DType::f64,
                                     .rows = c.rows,
                                     .columns = c.columns,
                                     .residual = stored.data(),
                                     .branch = nullptr,
                                     .mask = {},
                                     .sum = nullptr,
                                     .scale = scale.data(),
                                     .offset = offset.data(),
                                     .y = y.data(),
                                     .mean = mean.data(),
                                     .rstd = rstd.data()});

  const Array<T> d_residual(residual, c.shift), d_branch(branch, c.shift), d_scale(scale), d_offset(offset),
      d_sum(n, c.shift), d_y(n, c.shift);
  const Array<float> d_mean(c.rows), d_rstd(c.rows);
  kernels::residual_layer_norm(launch, {.type = kType<T>,
                                        .rows = c.rows,
                                        .columns = c.columns,
                                        .residual = c.residual ? d_residual.data() : nullptr,
                                        .branch = c.branch ? d_branch.data() : nullptr,
                                        .mask = masks.device,
                                        .sum = c.branch ? d_sum.data() : nullptr,
                                        .scale = d_scale.data(),
                                        .offset = d_offset.data(),
                                        .y = c.norm ? d_y.data() : nullptr,
                                        .mean = d_mean.data(),
                                        .rstd = d_rstd.data()});
  if (c.branch) expect_close(d_sum.read(), sum, bound_of<T>(), "sum");
  if (!c.norm) return;
  expect_close(d_mean.read(), mean, {1e-5, 1e-5}, "mean");
  expect_close(d_rstd.read(), rstd, {2e-5, 1e-5}, "rstd");
  // Where bf16 rounded a tie in the sum differently from the reference, y differs by as much.
  expect_close(d_y.read(), y, {bound_of<T>().relative, sizeof(T) == 2 ? 4e-3 : 2e-5}, "y");
}

TYPED_TEST(CudaNorm, LayerNorm) {
  for (const NormCase& c : kNormCases) check_norm<TypeParam>(this->launch(), c);
}

struct NormBackwardCase {
  int64_t rows, columns;
  double rate = 0;
  int64_t first = 0, shift = 0;
  bool d_sum = true, accumulate_x = false, d_branch = false, scale = true, offset = true, accumulate = false;
};

const NormBackwardCase kNormBackwardCases[] = {{900, 512},
                                               {9001, 512, 0.1, 0, 0, true, false, true},  // many per block
                                               {6000, 1024},
                                               {700, 1536, 0, 0, 0, false},
                                               {9001, 512, 0, 0, 0, false, true},  // added to what is there
                                               {6000, 1024, 0, 0, 0, false, true},
                                               {700, 1536, 0, 0, 0, false, true},
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
  kernels::cpu::residual_layer_norm({.type = DType::f64,
                                     .rows = c.rows,
                                     .columns = c.columns,
                                     .residual = x.data(),
                                     .branch = nullptr,
                                     .mask = {},
                                     .sum = nullptr,
                                     .scale = scale.data(),
                                     .offset = scale.data(),
                                     .y = y.data(),
                                     .mean = mean.data(),
                                     .rstd = rstd.data()});
  mean = rounded<float>(mean), rstd = rounded<float>(rstd);
  const auto branch_alone = [&](Values d_x) {  // dropout of d_x as stored
    Values d_branch = rounded<T>(d_x);
    if (c.rate > 0)
      kernels::cpu::dropout({.type = DType::f64,
                             .elements = n,
                             .x = d_branch.data(),
                             .mask = masks.host,
                             .y = d_branch.data(),
                             .accumulate = false});
    return d_branch;
  };
  Values d_x(old), d_scale(old_scale), d_offset(old_offset);
  kernels::cpu::residual_layer_norm_backward({.type = DType::f64,
                                              .rows = c.rows,
                                              .columns = c.columns,
                                              .x = x.data(),
                                              .scale = scale.data(),
                                              .mean = mean.data(),
                                              .rstd = rstd.data(),
                                              .d_y = d_y.data(),
                                              .d_sum = c.d_sum ? d_sum.data() : nullptr,
                                              .d_x = d_x.data(),
                                              .accumulate_x = c.accumulate_x,
                                              .mask = {},
                                              .d_branch = nullptr,
                                              .d_scale = d_scale.data(),
                                              .d_offset = d_offset.data(),
                                              .accumulate_scale = c.accumulate,
                                              .accumulate_offset = c.accumulate});

  const Array<T> a_x(x, c.shift), a_scale(scale), a_d_y(d_y, c.shift), a_d_sum(d_sum, c.shift),
      a_d_x(old, c.shift), a_d_branch(n, c.shift);
  const Array<float> a_mean(mean), a_rstd(rstd), a_d_scale(old_scale), a_d_offset(old_offset),
      a_branch_sums(c.columns);
  kernels::residual_layer_norm_backward(launch, {.type = kType<T>,
                                                 .rows = c.rows,
                                                 .columns = c.columns,
                                                 .x = a_x.data(),
                                                 .scale = a_scale.data(),
                                                 .mean = a_mean.data(),
                                                 .rstd = a_rstd.data(),
                                                 .d_y = a_d_y.data(),
                                                 .d_sum = c.d_sum ? a_d_sum.data() : nullptr,
                                                 .d_x = a_d_x.data(),
                                                 .accumulate_x = c.accumulate_x,
                                                 .mask = masks.device,
                                                 .d_branch = c.d_branch ? a_d_branch.data() : nullptr,
                                                 .d_scale = c.scale ? a_d_scale.data() : nullptr,
                                                 .d_offset = c.offset ? a_d_offset.data() : nullptr,
                                                 .accumulate_scale = c.accumulate,
                                                 .accumulate_offset = c.accumulate,
                                                 .branch_sums = c.offset ? a_branch_sums.data() : nullptr});
  const Bound bound{bound_of<T>().relative, 3e-5};
  expect_close(a_d_x.read(), d_x, bound, "d_x");
  if (c.d_branch) expect_close(a_d_branch.read(), branch_alone(a_d_x.read()), bound_of<T>(), "d_branch");
  expect_close(a_d_scale.read(), c.scale ? d_scale : old_scale, {1e-5, 3e-5}, "d_scale");
  expect_close(a_d_offset.read(), c.offset ? d_offset : old_offset, {1e-5, 3e-5}, "d_offset");
  if (!c.offset) return;
  const Values branch = c.d_branch ? a_d_branch.read() : a_d_x.read();
  Values sums(static_cast<size_t>(c.columns));
  for (size_t i = 0; i < branch.size(); ++i) sums[i % sums.size()] += branch[i];
  // Those of the kernel are of what has not been rounded.
  expect_close(a_branch_sums.read(), sums, {0, sizeof(T) == 2 ? 8e-3 : 3e-5}, "branch_sums");
}

TYPED_TEST(CudaNorm, BackwardMakesTheNormalOnceMoreBitForBit) {
  using T = TypeParam;
  for (const auto& [rows, columns] :
       {std::pair<int64_t, int64_t>{70, 512}, {33, 1024}, {9, 8192}, {21, 259}}) {
    const int64_t n = rows * columns;
    const Array<T> x(random_values<T>(n, 1, 2, 0.5)), d_y(random_values<T>(n, 2)),
        scale(random_values<T>(columns, 3)), offset(random_values<T>(columns, 4)), y(n), again(n), d_x(n);
    const Array<float> mean(rows), rstd(rows);
    kernels::residual_layer_norm(this->launch(), {.type = kType<T>,
                                                  .rows = rows,
                                                  .columns = columns,
                                                  .residual = x.data(),
                                                  .scale = scale.data(),
                                                  .offset = offset.data(),
                                                  .y = y.data(),
                                                  .mean = mean.data(),
                                                  .rstd = rstd.data()});
    kernels::residual_layer_norm_backward(this->launch(), {.type = kType<T>,
                                                           .rows = rows,
                                                           .columns = columns,
                                                           .x = x.data(),
                                                           .scale = scale.data(),
                                                           .mean = mean.data(),
                                                           .rstd = rstd.data(),
                                                           .d_y = d_y.data(),
                                                           .d_x = d_x.data(),
                                                           .offset = offset.data(),
                                                           .y = again.data()});
    EXPECT_EQ(again.bytes(), y.bytes()) << rows << " x " << columns;
  }
}

TYPED_TEST(CudaNorm, LayerNormBackward) {
  for (const NormBackwardCase& c : kNormBackwardCases) check_norm_backward<TypeParam>(this->launch(), c);
}

TYPED_TEST(CudaNorm, LayerNormBackwardRepeats) {
  using T = TypeParam;
  const int64_t rows = 3000, columns = 520, n = rows * columns;
  const Array<T> x(random_values<T>(n, 1)), d_y(random_values<T>(n, 2)), scale(random_values<T>(columns, 3)),
      d_x(n);
  const Array<float> mean(random_values<float>(rows, 4)), rstd(random_values<float>(rows, 5, 0.1, 1)),
      d_scale(columns), d_offset(columns);
  this->expect_repeatable([] {},
                          [&] {
                            kernels::residual_layer_norm_backward(this->launch(),
                                                                  {.type = kType<T>,
                                                                   .rows = rows,
                                                                   .columns = columns,
                                                                   .x = x.data(),
                                                                   .scale = scale.data(),
                                                                   .mean = mean.data(),
                                                                   .rstd = rstd.data(),
                                                                   .d_y = d_y.data(),
                                                                   .d_sum = nullptr,
                                                                   .d_x = d_x.data(),
                                                                   .accumulate_x = false,
                                                                   .mask = {},
                                                                   .d_branch = nullptr,
                                                                   .d_scale = d_scale.data(),
                                                                   .d_offset = d_offset.data(),
                                                                   .accumulate_scale = false,
                                                                   .accumulate_offset = false});
                          },
                          d_scale);
}

/// With ones as input, dropout returns the mask.
TYPED_TEST(CudaNorm, DropoutMasksAreThoseOfTheCpu) {
  using T = TypeParam;
  for (const int64_t first : {0, 1, 2, 3, 4, 1027}) {
    const int64_t n = 5003;
    const Masks masks(0.25, (int64_t{1} << 34) - 64 + first);
    const Values ones(static_cast<size_t>(n), 1.0);
    Values expected(ones);
    kernels::cpu::dropout({.type = DType::f64,
                           .elements = n,
                           .x = ones.data(),
                           .mask = masks.host,
                           .y = expected.data(),
                           .accumulate = false});
    for (const int64_t shift : {0, 1}) {
      const Array<T> x(ones, shift), y(n, shift);
      kernels::dropout(this->launch(), {.type = kType<T>,
                                        .elements = n,
                                        .x = x.data(),
                                        .mask = masks.device,
                                        .y = y.data(),
                                        .accumulate = false});
      EXPECT_EQ(y.read(), rounded<T>(rounded<float>(expected)));
      kernels::dropout(this->launch(), {.type = kType<T>,
                                        .elements = n,
                                        .x = x.data(),
                                        .mask = masks.device,
                                        .y = x.data(),
                                        .accumulate = false});
      EXPECT_EQ(x.read(), y.read());
    }
    const Array<T> branch(ones), sum(n);
    kernels::residual_layer_norm(this->launch(), {.type = kType<T>,
                                                  .rows = n,
                                                  .columns = 1,
                                                  .residual = nullptr,
                                                  .branch = branch.data(),
                                                  .mask = masks.device,
                                                  .sum = sum.data(),
                                                  .scale = nullptr,
                                                  .offset = nullptr,
                                                  .y = nullptr,
                                                  .mean = nullptr,
                                                  .rstd = nullptr});
    EXPECT_EQ(sum.read(), rounded<T>(rounded<float>(expected)));
  }
}

TYPED_TEST(CudaNorm, DropoutAccumulatesAndCopies) {
  using T = TypeParam;
  const int64_t n = 1030;
  for (const double rate : {0.0, 0.3}) {
    const Masks masks(rate, 5);
    const Values x = random_values<T>(n, 1), old = random_values<T>(n, 2);
    Values expected(old);
    kernels::cpu::dropout({.type = DType::f64,
                           .elements = n,
                           .x = x.data(),
                           .mask = masks.host,
                           .y = expected.data(),
                           .accumulate = true});
    const Array<T> a_x(x), a_y(old);
    kernels::DropoutMask mask = masks.device;
    if (rate == 0) mask.step = nullptr;
    kernels::dropout(this->launch(), {.type = kType<T>,
                                      .elements = n,
                                      .x = a_x.data(),
                                      .mask = mask,
                                      .y = a_y.data(),
                                      .accumulate = true});
    expect_close(a_y.read(), expected, bound_of<T>(), "y");
  }
}

}  // namespace
}  // namespace perceiver::testing
