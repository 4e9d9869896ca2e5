// CUDA kernels over rows against the CPU's in f64: LayerNorm, bias and activation, several latents per
// position, rotary encoding.
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/norm.h"
#include "tests/support/cuda_check.h"

namespace perceiver {
namespace {

using namespace testing;

template <typename T>
class CudaRows : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaRows, ElementTypes);

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

TYPED_TEST(CudaRows, LayerNorm) {
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
  const Array<float> a_mean(mean), a_rstd(rstd), a_d_scale(old_scale), a_d_offset(old_offset);
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
                                                 .accumulate_offset = c.accumulate});
  const Bound bound{bound_of<T>().relative, 3e-5};
  expect_close(a_d_x.read(), d_x, bound, "d_x");
  if (c.d_branch) expect_close(a_d_branch.read(), branch_alone(a_d_x.read()), bound_of<T>(), "d_branch");
  expect_close(a_d_scale.read(), c.scale ? d_scale : old_scale, {1e-5, 3e-5}, "d_scale");
  expect_close(a_d_offset.read(), c.offset ? d_offset : old_offset, {1e-5, 3e-5}, "d_offset");
}

TYPED_TEST(CudaRows, LayerNormBackward) {
  for (const NormBackwardCase& c : kNormBackwardCases) check_norm_backward<TypeParam>(this->launch(), c);
}

TYPED_TEST(CudaRows, LayerNormBackwardRepeats) {
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
TYPED_TEST(CudaRows, DropoutMasksAreThoseOfTheCpu) {
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

TYPED_TEST(CudaRows, DropoutAccumulatesAndCopies) {
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

struct MatrixCase {
  int64_t rows, columns, shift = 0;
};
const MatrixCase kMatrixCases[] = {{700, 512}, {65, 40, 1}, {33, 259}, {5, 1}, {1, 4096}, {1200, 136}};
constexpr Activation kActivations[] = {Activation::identity, Activation::squared_relu, Activation::gelu,
                                       Activation::silu, Activation::relu};

template <typename T>
void check_bias(const Launch& launch, const MatrixCase& c, Activation activation, bool with_bias) {
  const int64_t n = c.rows * c.columns;
  const bool activated = activation != Activation::identity;
  const Values in = random_values<T>(n, 1, 3), bias = random_values<T>(c.columns, 2);
  Values pre(in), out(in);
  kernels::cpu::bias_activation({.type = DType::f64,
                                 .rows = c.rows,
                                 .columns = c.columns,
                                 .activation = Activation::identity,
                                 .pre = pre.data(),
                                 .bias = with_bias ? bias.data() : nullptr,
                                 .out = nullptr});
  Values stored = rounded<T>(pre);
  if (activated)
    kernels::cpu::bias_activation({.type = DType::f64,
                                   .rows = c.rows,
                                   .columns = c.columns,
                                   .activation = activation,
                                   .pre = stored.data(),
                                   .bias = nullptr,
                                   .out = out.data()});
  const Array<T> a_pre(in, c.shift), a_bias(bias), a_out(n, c.shift);
  kernels::bias_activation(launch, {.type = kType<T>,
                                    .rows = c.rows,
                                    .columns = c.columns,
                                    .activation = activation,
                                    .pre = a_pre.data(),
                                    .bias = with_bias ? a_bias.data() : nullptr,
                                    .out = activated ? a_out.data() : nullptr});
  expect_close(a_pre.read(), pre, bound_of<T>(), "pre");
  if (activated) expect_close(a_out.read(), out, bound_of<T>(), "out");
}

TYPED_TEST(CudaRows, BiasActivation) {
  for (const MatrixCase& c : kMatrixCases)
    for (const Activation activation : kActivations) {
      check_bias<TypeParam>(this->launch(), c, activation, true);
      check_bias<TypeParam>(this->launch(), c, activation, false);
    }
}

template <typename T>
void check_bias_backward(const Launch& launch, const MatrixCase& c, Activation activation, bool with_bias,
                         bool in_place) {
  const int64_t n = c.rows * c.columns;
  const bool activated = activation != Activation::identity;
  const Values d_out = random_values<T>(n, 2), old = random_values<float>(c.columns, 3);
  Values pre =
      random_values<T>(n, 1, 3);  // what backward reads: for some activations the output, never negative
  if (kernels::derives_from_output(activation))
    for (double& value : pre) value = std::max(0.0, value);
  Values d_pre(d_out), d_bias(old);
  kernels::cpu::bias_activation_backward({.type = DType::f64,
                                          .rows = c.rows,
                                          .columns = c.columns,
                                          .activation = activation,
                                          .kept = pre.data(),
                                          .d_out = d_out.data(),
                                          .d_pre = d_pre.data(),
                                          .d_bias = d_bias.data(),
                                          .accumulate_bias = in_place});
  const Array<T> a_pre(pre, c.shift), a_d_out(d_out, c.shift), a_d_pre(n, c.shift);
  const Array<float> a_d_bias(old);
  const Array<T>& target = in_place ? a_d_out : a_d_pre;
  kernels::bias_activation_backward(launch, {.type = kType<T>,
                                             .rows = c.rows,
                                             .columns = c.columns,
                                             .activation = activation,
                                             .kept = activated ? a_pre.data() : nullptr,
                                             .d_out = a_d_out.data(),
                                             .d_pre = activated ? target.data() : nullptr,
                                             .d_bias = with_bias ? a_d_bias.data() : nullptr,
                                             .accumulate_bias = in_place});
  if (activated) expect_close(target.read(), d_pre, bound_of<T>(), "d_pre");
  expect_close(a_d_bias.read(), with_bias ? d_bias : old, {1e-5, 2e-5}, "d_bias");
}

TYPED_TEST(CudaRows, BiasActivationBackward) {
  for (const MatrixCase& c : kMatrixCases)
    for (const Activation activation : kActivations) {
      check_bias_backward<TypeParam>(this->launch(), c, activation, true, false);
      check_bias_backward<TypeParam>(this->launch(), c, activation, true, true);
      check_bias_backward<TypeParam>(this->launch(), c, activation, false, false);
    }
}

TYPED_TEST(CudaRows, BiasGradientRepeats) {
  using T = TypeParam;
  const int64_t rows = 9000, columns = 264;
  const Array<T> d_out(random_values<T>(rows * columns, 1));
  const Array<float> d_bias(columns);
  this->expect_repeatable([] {},
                          [&] {
                            kernels::bias_activation_backward(this->launch(),
                                                              {.type = kType<T>,
                                                               .rows = rows,
                                                               .columns = columns,
                                                               .activation = Activation::identity,
                                                               .kept = nullptr,
                                                               .d_out = d_out.data(),
                                                               .d_pre = nullptr,
                                                               .d_bias = d_bias.data(),
                                                               .accumulate_bias = false});
                          },
                          d_bias);
}

/// Activations of large arguments stay finite where the function is.
TYPED_TEST(CudaRows, ActivationsOfLargeInputs) {
  using T = TypeParam;
  const Values in{-1e4, -300, -100, -88, -50, -12, -0.0, 12, 50, 88, 100, 300, 1e4, -1e-3, 1e-3, 1};
  const auto n = static_cast<int64_t>(in.size());
  for (const Activation activation : {Activation::gelu, Activation::silu}) {
    Values x = rounded<T>(in), ones(in.size(), 1), out(x), d(x);
    kernels::cpu::bias_activation({.type = DType::f64,
                                   .rows = 1,
                                   .columns = n,
                                   .activation = activation,
                                   .pre = x.data(),
                                   .bias = nullptr,
                                   .out = out.data()});
    kernels::cpu::bias_activation_backward({.type = DType::f64,
                                            .rows = 1,
                                            .columns = n,
                                            .activation = activation,
                                            .kept = x.data(),
                                            .d_out = ones.data(),
                                            .d_pre = d.data(),
                                            .d_bias = nullptr,
                                            .accumulate_bias = false});
    const Array<T> a_x(x), a_ones(ones), a_out(n), a_d(n);
    kernels::bias_activation(this->launch(), {.type = kType<T>,
                                              .rows = 1,
                                              .columns = n,
                                              .activation = activation,
                                              .pre = a_x.data(),
                                              .bias = nullptr,
                                              .out = a_out.data()});
    kernels::bias_activation_backward(this->launch(), {.type = kType<T>,
                                                       .rows = 1,
                                                       .columns = n,
                                                       .activation = activation,
                                                       .kept = a_x.data(),
                                                       .d_out = a_ones.data(),
                                                       .d_pre = a_d.data(),
                                                       .d_bias = nullptr,
                                                       .accumulate_bias = false});
    const Bound bound{sizeof(T) == 2 ? 1.0 / 128 : 1e-5, 1e-12};
    expect_close(a_out.read(), out, bound, "out");
    expect_close(a_d.read(), d, {bound.relative, 1e-6}, "d");
  }
}

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
    kernels::cpu::repeat_rows({.type = DType::f64,
                               .rows = rows,
                               .copies = copies,
                               .columns = columns,
                               .x = x.data(),
                               .encoding = encoding.data(),
                               .y = y.data()});
    const Array<T> a_x(x), a_encoding(encoding), a_y(wide), a_d_y(d_y);
    kernels::repeat_rows(this->launch(), {.type = kType<T>,
                                          .rows = rows,
                                          .copies = copies,
                                          .columns = columns,
                                          .x = a_x.data(),
                                          .encoding = a_encoding.data(),
                                          .y = a_y.data()});
    expect_close(a_y.read(), y, bound_of<T>(), "y");
    for (const bool accumulate : {false, true}) {
      Values d_x(x), d_encoding(old_encoding);
      kernels::cpu::repeat_rows_backward({.type = DType::f64,
                                          .rows = rows,
                                          .copies = copies,
                                          .columns = columns,
                                          .d_y = d_y.data(),
                                          .d_x = d_x.data(),
                                          .accumulate_x = accumulate,
                                          .d_encoding = d_encoding.data(),
                                          .accumulate_encoding = accumulate});
      const Array<T> a_d_x(x);
      const Array<float> a_d_encoding(old_encoding);
      kernels::repeat_rows_backward(this->launch(), {.type = kType<T>,
                                                     .rows = rows,
                                                     .copies = copies,
                                                     .columns = columns,
                                                     .d_y = a_d_y.data(),
                                                     .d_x = a_d_x.data(),
                                                     .accumulate_x = accumulate,
                                                     .d_encoding = a_d_encoding.data(),
                                                     .accumulate_encoding = accumulate});
      expect_close(a_d_x.read(), d_x, bound_of<T>(), "d_x");
      expect_close(a_d_encoding.read(), d_encoding, {1e-5, 1e-5}, "d_encoding");
      kernels::repeat_rows_backward(this->launch(), {.type = kType<T>,
                                                     .rows = rows,
                                                     .copies = copies,
                                                     .columns = columns,
                                                     .d_y = a_d_y.data(),
                                                     .d_x = nullptr,
                                                     .accumulate_x = false,
                                                     .d_encoding = nullptr,
                                                     .accumulate_encoding = false});
    }
  }
}

TYPED_TEST(CudaRows, AverageRows) {
  using T = TypeParam;
  for (const auto& [rows, copies, columns] : kCopiesCases) {
    const int64_t wide = rows * copies * columns;
    const Values x = random_values<T>(wide, 1), d_y = random_values<T>(rows * columns, 2);
    Values y(d_y);
    kernels::cpu::average_rows({.type = DType::f64,
                                .rows = rows,
                                .copies = copies,
                                .columns = columns,
                                .x = x.data(),
                                .y = y.data()});
    const Array<T> a_x(x), a_y(rows * columns), a_d_y(d_y);
    kernels::average_rows(this->launch(), {.type = kType<T>,
                                           .rows = rows,
                                           .copies = copies,
                                           .columns = columns,
                                           .x = a_x.data(),
                                           .y = a_y.data()});
    expect_close(a_y.read(), y, bound_of<T>(), "y");
    for (const bool accumulate : {false, true}) {
      Values d_x(x);
      kernels::cpu::average_rows_backward({.type = DType::f64,
                                           .rows = rows,
                                           .copies = copies,
                                           .columns = columns,
                                           .d_y = d_y.data(),
                                           .d_x = d_x.data(),
                                           .accumulate = accumulate});
      const Array<T> a_d_x(x);
      kernels::average_rows_backward(this->launch(), {.type = kType<T>,
                                                      .rows = rows,
                                                      .copies = copies,
                                                      .columns = columns,
                                                      .d_y = a_d_y.data(),
                                                      .d_x = a_d_x.data(),
                                                      .accumulate = accumulate});
      expect_close(a_d_x.read(), d_x, bound_of<T>(), "d_x");
    }
  }
}

struct RotaryCase {
  int64_t rows, stride, heads, head_dim, bands, shift = 0;
};

TYPED_TEST(CudaRows, Rotary) {
  using T = TypeParam;
  const RotaryCase cases[] = {{70, 192, 3, 64, 32},  {70, 200, 3, 64, 16}, {9, 50, 2, 20, 5},
                              {33, 64, 1, 64, 4, 1}, {5, 3, 1, 3, 1},      {40, 512, 8, 64, 2}};
  for (const RotaryCase& c : cases) {
    const int64_t positions = 50, n = c.rows * c.stride;
    const Values x = random_values<T>(n, 1), angles = random_values<float>(positions * c.bands, 2, 3);
    Values cosine(angles), sine(angles);
    for (size_t i = 0; i < angles.size(); ++i) {
      cosine[i] = widen(static_cast<float>(std::cos(angles[i])));
      sine[i] = widen(static_cast<float>(std::sin(angles[i])));
    }
    Ints at = random_ints(c.rows, 3, 99);
    for (int32_t& position : at) position -= 49;
    const DeviceArray<int32_t> a_at(at);
    const Array<float> a_cosine(cosine), a_sine(sine);
    for (const int direction : {1, -1}) {
      Values expected(x);
      kernels::cpu::rotary({.type = DType::f64,
                            .rows = c.rows,
                            .row_stride = c.stride,
                            .heads = c.heads,
                            .head_dim = c.head_dim,
                            .bands = c.bands,
                            .x = expected.data(),
                            .positions = at.data(),
                            .cosine = cosine.data(),
                            .sine = sine.data(),
                            .direction = direction});
      const Array<T> a_x(x, c.shift);
      kernels::rotary(this->launch(), {.type = kType<T>,
                                       .rows = c.rows,
                                       .row_stride = c.stride,
                                       .heads = c.heads,
                                       .head_dim = c.head_dim,
                                       .bands = c.bands,
                                       .x = a_x.data(),
                                       .positions = a_at.data(),
                                       .cosine = a_cosine.data(),
                                       .sine = a_sine.data(),
                                       .direction = direction});
      expect_close(a_x.read(), expected, bound_of<T>(), "x");
    }
  }
}

}  // namespace
}  // namespace perceiver
