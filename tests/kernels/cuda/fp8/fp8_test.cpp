// 8-bit operands on a GPU against the CPU's: the same codes, and the product of the same numbers.
#include "kernels/fp8.h"

#include <gtest/gtest.h>

#include "kernels/gemm.h"
#include "tests/support/cuda_check.h"
#include "tests/support/gpu.h"

namespace perceiver::testing {
namespace {

using kernels::Fp8Format;

class CudaFp8 : public CudaKernelTest<bf16> {};

struct Quantised {
  std::vector<uint8_t> out, transposed;
  Values sums;
  float largest = 0;
};

struct Case {
  int64_t rows, columns;
  Activation activation = Activation::identity;
  bool derivative = false;
  Fp8Format format = Fp8Format::e4m3;
};

constexpr float kScale = 8;

Quantised on_cpu(const Case& c, const Values& x, const Values& d_out) {
  const std::vector<float> narrow_x(x.begin(), x.end()), narrow_d(d_out.begin(), d_out.end());
  const auto elements = static_cast<size_t>(c.rows * c.columns);
  Quantised result{std::vector<uint8_t>(elements), std::vector<uint8_t>(elements), {}};
  std::vector<float> sums(static_cast<size_t>(c.columns), 2);
  kernels::cpu::fp8_quantize({.type = DType::f32,
                              .rows = c.rows,
                              .columns = c.columns,
                              .activation = c.activation,
                              .x = narrow_x.data(),
                              .d_out = c.derivative ? narrow_d.data() : nullptr,
                              .format = c.format,
                              .scale = &kScale,
                              .largest = &result.largest,
                              .out = result.out.data(),
                              .transposed = result.transposed.data(),
                              .column_sums = sums.data(),
                              .accumulate_sums = true});
  result.sums.assign(sums.begin(), sums.end());
  return result;
}

Quantised on_gpu(const Launch& launch, const Case& c, const Values& x, const Values& d_out) {
  const Array<bf16> device_x(x), device_d(d_out);
  const DeviceArray<uint8_t> out(x.size()), transposed(x.size());
  const DeviceArray<float> sums(std::vector<float>(static_cast<size_t>(c.columns), 2)),
      scale(std::vector<float>{kScale}), largest(std::vector<float>{0});
  kernels::cuda::fp8_quantize(launch, {.type = DType::bf16,
                                       .rows = c.rows,
                                       .columns = c.columns,
                                       .activation = c.activation,
                                       .x = device_x.data(),
                                       .d_out = c.derivative ? device_d.data() : nullptr,
                                       .format = c.format,
                                       .scale = scale.data(),
                                       .largest = largest.data(),
                                       .out = out.data(),
                                       .transposed = transposed.data(),
                                       .column_sums = sums.data(),
                                       .accumulate_sums = true});
  const std::vector<float> read = sums.read();
  return {out.read(), transposed.read(), Values(read.begin(), read.end()), largest.read()[0]};
}

/// How many codes differ, and by more than one step.
std::pair<int64_t, int64_t> differences(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  int64_t some = 0, more = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const int distance = std::abs((a[i] & 0x7f) - (b[i] & 0x7f));
    if (distance == 0 && (a[i] & 0x7f) == 0) continue;  // zeros of either sign
    some += a[i] != b[i];
    more += distance > 1 || (distance == 0 && a[i] != b[i]);
  }
  return {some, more};
}

TEST_F(CudaFp8, Quantises) {
  const Case cases[] = {{128, 64},
                        {1040, 400},
                        {16, 16, Activation::identity, false, Fp8Format::e5m2},
                        {304, 1024, Activation::squared_relu},
                        {304, 1024, Activation::squared_relu, true, Fp8Format::e5m2},
                        {272, 80, Activation::relu, true, Fp8Format::e5m2},
                        {272, 80, Activation::gelu},
                        {272, 80, Activation::gelu, true, Fp8Format::e5m2},
                        {272, 80, Activation::silu, true},
                        {272, 80, Activation::gelu_exact, true}};
  for (const Case& c : cases) {
    Values x = random_values<bf16>(c.rows * c.columns, 1),
           d_out = random_values<bf16>(c.rows * c.columns, 2, 3);
    x[5] = 99840;
    x[7] = 0;
    const Quantised a = on_cpu(c, x, d_out), b = on_gpu(launch(), c, x, d_out);
    const auto [some, more] = differences(a.out, b.out);
    // Activations are rounded to f32 on the way; a tie may fall to the other side.
    const bool exact = c.activation == Activation::identity;
    EXPECT_LE(some, exact ? 0 : c.rows * c.columns / 1000);
    EXPECT_EQ(more, 0);
    for (int64_t row = 0; row < c.rows; ++row)
      for (int64_t column = 0; column < c.columns; ++column)
        ASSERT_EQ(b.out[static_cast<size_t>(row * c.columns + column)],
                  b.transposed[static_cast<size_t>(column * c.rows + row)])
            << row << ' ' << column;
    expect_close(b.sums, a.sums, {1e-4, 1e-5}, "column sums");
    EXPECT_NEAR(b.largest, a.largest, 1e-4 * a.largest);
  }
}

TEST_F(CudaFp8, QuantisesManyInOneLaunch) {
  // Of the last one a block takes several tiles: they are more than its elements suggest.
  const std::pair<int64_t, int64_t> shapes[] = {{1024, 256}, {16, 16}, {400, 1040}, {16, 4096}};
  std::vector<std::unique_ptr<Array<bf16>>> x;
  std::vector<std::unique_ptr<DeviceArray<uint8_t>>> out, transposed;
  const DeviceArray<float> scale(std::vector<float>{kScale}), largest(std::vector<float>(4, 0));
  std::vector<kernels::Fp8Quantize> each;
  for (size_t i = 0; i < std::size(shapes); ++i) {
    const auto [rows, columns] = shapes[i];
    const auto elements = static_cast<size_t>(rows * columns);
    x.push_back(std::make_unique<Array<bf16>>(random_values<bf16>(rows * columns, static_cast<uint32_t>(i))));
    out.push_back(std::make_unique<DeviceArray<uint8_t>>(elements));
    transposed.push_back(std::make_unique<DeviceArray<uint8_t>>(elements));
    each.push_back({.type = DType::bf16,
                    .rows = rows,
                    .columns = columns,
                    .x = x[i]->data(),
                    .format = Fp8Format::e4m3,
                    .scale = scale.data(),
                    .largest = largest.data() + i,
                    .out = out[i]->data(),
                    .transposed = transposed[i]->data()});
  }
  const DeviceArray<kernels::Fp8Quantize> device_each(each);
  kernels::cuda::fp8_quantize_many(launch(), {.type = DType::bf16,
                                              .each = device_each.data(),
                                              .count = static_cast<int64_t>(each.size()),
                                              .most_elements = 3 * 8192});
  for (size_t i = 0; i < each.size(); ++i) {
    const Values values = x[i]->read();
    const Quantised alone = on_gpu(launch(), {each[i].rows, each[i].columns}, values, values);
    EXPECT_EQ(out[i]->read(), alone.out) << i;
    EXPECT_EQ(transposed[i]->read(), alone.transposed) << i;
    EXPECT_EQ(largest.read()[i], alone.largest) << i;
  }
}

TEST_F(CudaFp8, WhatIsNotFiniteStaysSo) {
  Values x = random_values<bf16>(256, 1);
  x[0] = std::numeric_limits<double>::infinity();
  x[1] = std::numeric_limits<double>::quiet_NaN();
  for (const Fp8Format format : {Fp8Format::e4m3, Fp8Format::e5m2}) {
    const Quantised q = on_gpu(launch(), {16, 16, Activation::identity, false, format}, x, x);
    EXPECT_EQ(q.out[0] & 0x7f, 0x7f);
    EXPECT_EQ(q.out[1] & 0x7f, 0x7f);
    EXPECT_EQ(q.largest, std::numeric_limits<float>::infinity());
  }
  x[0] = 1;
  EXPECT_LT(on_gpu(launch(), {16, 16}, x, x).largest, 10) << "what is not a number has no magnitude";
}

TEST_F(CudaFp8, Products) {
  const auto context = gpu();
  const Launch& here = context->launch();
  if (const char* obstacle = kernels::fp8_obstacle(here)) GTEST_SKIP() << context->name() << ' ' << obstacle;
  struct Shape {
    int64_t m, n, k;
  };
  for (const auto& [m, n, k] : {Shape{256, 384, 512}, {16, 32, 48}, {1040, 80, 4096}})
    for (const Fp8Format format : {Fp8Format::e4m3, Fp8Format::e5m2})
      for (const bool wide : {false, true}) {
        std::mt19937 generator(7);
        const auto codes = [&](int64_t count) {
          std::vector<uint8_t> all(static_cast<size_t>(count));
          for (uint8_t& code : all)
            code = static_cast<uint8_t>((generator() & 0x80) | (0x28 + generator() % 24));
          return all;
        };
        const std::vector<uint8_t> a = codes(m * k), b = codes(n * k);
        const float a_inverse = 0.25f, b_inverse = 0.5f;
        std::vector<float> expected(static_cast<size_t>(m * n), 1);
        kernels::cpu::fp8_gemm({.type = DType::f32,
                                .out_type = DType::f32,
                                .m = m,
                                .n = n,
                                .k = k,
                                .a_format = format,
                                .a = a.data(),
                                .a_inverse = &a_inverse,
                                .b = b.data(),
                                .b_inverse = &b_inverse,
                                .c = expected.data(),
                                .accumulate = true});
        const DeviceArray<uint8_t> device_a(a), device_b(b);
        const DeviceArray<float> factor_a(std::vector<float>{a_inverse}),
            factor_b(std::vector<float>{b_inverse});
        const Values ones(expected.size(), 1);
        const Array<float> f32(ones);
        const Array<bf16> rounded(ones);
        require_cuda(cudaDeviceSynchronize(), "the arrays");
        kernels::Fp8Gemm product{.type = DType::bf16,
                                 .out_type = wide ? DType::f32 : DType::bf16,
                                 .m = m,
                                 .n = n,
                                 .k = k,
                                 .a_format = format,
                                 .a = device_a.data(),
                                 .a_inverse = factor_a.data(),
                                 .b = device_b.data(),
                                 .b_inverse = factor_b.data(),
                                 .c = wide ? static_cast<void*>(f32.data()) : rounded.data(),
                                 .accumulate = true,
                                 .precise = wide};
        kernels::cuda::fp8_gemm(here, product);
        // The tensor cores' own sums have about 14 bits.
        const Bound bound = wide ? Bound{1e-3, 1e-3} : Bound{1.0 / 128, 2e-3};
        expect_close(wide ? f32.read() : rounded.read(), Values(expected.begin(), expected.end()), bound,
                     "product");
        if (wide) continue;
        const Array<bf16> addend(ones), sums(m * n);
        require_cuda(cudaDeviceSynchronize(), "the arrays");
        product.accumulate = false;
        product.addend = addend.data();
        product.c = sums.data();
        kernels::cuda::fp8_gemm(here, product);
        expect_close(sums.read(), Values(expected.begin(), expected.end()), bound, "product and addend");
      }
}

/// A product whose result is quantised: 8-bit operands that are small integers, so that sums are exact.
struct QuantisedProduct {
  int64_t m, n, k;
  Activation activation;
  bool derivative;

  Fp8Format format() const { return derivative ? Fp8Format::e5m2 : Fp8Format::e4m3; }
  /// 0, 1, 2 or 3 of either sign.
  std::vector<uint8_t> codes(int64_t count, Fp8Format of, uint32_t seed) const {
    std::mt19937 generator(seed);
    const uint8_t e4m3[] = {0, 0x38, 0x40, 0x44}, e5m2[] = {0, 0x3c, 0x40, 0x42};
    std::vector<uint8_t> all(static_cast<size_t>(count));
    for (uint8_t& code : all) {
      const uint32_t random = static_cast<uint32_t>(generator());
      code = static_cast<uint8_t>((random & 0x80) | (of == Fp8Format::e4m3 ? e4m3 : e5m2)[random % 4]);
    }
    return all;
  }
};

struct QuantisedResults {
  Quantised quantised;
  Values product, argument;
};

QuantisedResults multiply_and_quantise(const Launch& launch, const QuantisedProduct& p, bool in_one_pass) {
  const DeviceArray<uint8_t> a(p.codes(p.m * p.k, p.format(), 1)), b(p.codes(p.n * p.k, Fp8Format::e4m3, 2));
  const DeviceArray<float> a_inverse(std::vector<float>{0.25f}), b_inverse(std::vector<float>{0.0625f}),
      scale(std::vector<float>{kScale}), largest(std::vector<float>{0}),
      sums(std::vector<float>(static_cast<size_t>(p.n), 2));
  const auto elements = static_cast<size_t>(p.m * p.n);
  const Array<bf16> bias(random_values<bf16>(p.n, 3)), argument(random_values<bf16>(p.m * p.n, 4)),
      product(Values(elements, 0));
  const DeviceArray<uint8_t> out(elements), transposed(elements);
  kernels::Fp8GemmQuantize k{.product = {.type = DType::bf16,
                                         .out_type = DType::bf16,
                                         .m = p.m,
                                         .n = p.n,
                                         .k = p.k,
                                         .a_format = p.format(),
                                         .a = a.data(),
                                         .a_inverse = a_inverse.data(),
                                         .b = b.data(),
                                         .b_inverse = b_inverse.data(),
                                         .c = product.data(),
                                         .bias = p.derivative ? nullptr : bias.data()},
                             .quantize = {.type = DType::bf16,
                                          .rows = p.m,
                                          .columns = p.n,
                                          .activation = p.activation,
                                          .x = p.derivative ? argument.data() : nullptr,
                                          .format = p.format(),
                                          .scale = scale.data(),
                                          .largest = largest.data(),
                                          .out = out.data(),
                                          .transposed = transposed.data(),
                                          .column_sums = p.derivative ? sums.data() : nullptr,
                                          .accumulate_sums = true}};
  // The context's stream waits for no other.
  require_cuda(cudaDeviceSynchronize(), "the arrays");
  if (in_one_pass) {
    if (p.derivative) k.product.c = nullptr;
    kernels::cuda::fp8_gemm_quantize(launch, k);
  } else {
    kernels::cuda::fp8_gemm(launch, k.product);
    (p.derivative ? k.quantize.d_out : k.quantize.x) = k.product.c;
    kernels::cuda::fp8_quantize(launch, k.quantize);
  }
  const std::vector<float> read = sums.read();
  return {{out.read(), transposed.read(), Values(read.begin(), read.end()), largest.read()[0]},
          product.read(),
          argument.read()};
}

/// product * activation'(argument), product and derivative rounded before, and the result.
Values derived(const QuantisedProduct& p, const QuantisedResults& r) {
  Values kept = r.argument, derivative(kept.size(), 1);
  kernels::BiasActivation activation{.type = DType::f64,
                                     .rows = p.m,
                                     .columns = p.n,
                                     .activation = p.activation,
                                     .pre = kept.data(),
                                     .out = kept.data()};
  if (kernels::derives_from_output(p.activation)) kernels::cpu::bias_activation(activation);
  kernels::cpu::bias_activation_backward({.type = DType::f64,
                                          .rows = p.m,
                                          .columns = p.n,
                                          .activation = p.activation,
                                          .kept = kept.data(),
                                          .d_out = derivative.data(),
                                          .d_pre = derivative.data()});
  Values result = rounded<bf16>(derivative);
  for (size_t i = 0; i < result.size(); ++i) result[i] *= r.product[i];
  return rounded<bf16>(result);
}

/// Against the codes of the derivative that the product `b` gives.
void check_derivative(const Launch& launch, const QuantisedProduct& p, const QuantisedResults& a,
                      const QuantisedResults& b) {
  const Values values = derived(p, b);
  const Quantised expected =
      on_gpu(launch, {p.m, p.n, Activation::identity, false, p.format()}, values, values);
  // The GPU computes other slopes with its own functions: their rounding may fall to the other side.
  const bool exact = kernels::derives_from_output(p.activation);
  for (const auto& [codes, of] : {std::pair{&a.quantised.out, &expected.out},
                                  std::pair{&a.quantised.transposed, &expected.transposed}}) {
    const auto [some, more] = differences(*codes, *of);
    EXPECT_LE(some, exact ? 0 : p.m * p.n / 1000);
    EXPECT_EQ(more, 0);
  }
  EXPECT_NEAR(a.quantised.largest, expected.largest, exact ? 0 : 1e-2 * expected.largest);
  expect_close(a.quantised.sums, expected.sums, exact ? Bound{1e-4, 1e-5} : Bound{1e-3, 2e-2}, "column sums");
}

TEST_F(CudaFp8, ProductsAreQuantisedInTheirEpilogue) {
  const auto context = gpu();
  if (!kernels::fp8_gemm_quantizes(context->launch(), 1 << 16, 1 << 10))
    GTEST_SKIP() << context->name() << " has no products that quantise";
  const QuantisedProduct cases[] = {{256, 256, 128, Activation::squared_relu, false},
                                    {256, 512, 64, Activation::squared_relu, true},
                                    {1040, 400, 272, Activation::gelu, false},
                                    {1040, 400, 272, Activation::gelu, true},
                                    {2064, 1104, 528, Activation::squared_relu, false},
                                    {2064, 1104, 528, Activation::squared_relu, true},
                                    {16, 16, 16, Activation::relu, false},
                                    {16, 80, 48, Activation::relu, true},
                                    {272, 272, 144, Activation::silu, false},
                                    {272, 272, 144, Activation::silu, true},
                                    {272, 272, 144, Activation::gelu_exact, false},
                                    {272, 272, 144, Activation::gelu_exact, true}};
  for (const int sm_count : {4, launch().sm_count})  // many tiles for a block, and few
    for (const QuantisedProduct& p : cases) {
      Launch here = context->launch();
      here.sm_count = sm_count;
      SCOPED_TRACE(::testing::Message() << p.m << ' ' << p.n << ' ' << p.k << ", activation "
                                        << static_cast<int>(p.activation) << ", derivative " << p.derivative);
      const QuantisedResults a = multiply_and_quantise(here, p, true),
                             b = multiply_and_quantise(here, p, false);
      EXPECT_GT(a.quantised.largest, 0);
      if (p.derivative) {
        check_derivative(here, p, a, b);
        continue;
      }
      EXPECT_EQ(a.quantised.out, b.quantised.out);
      EXPECT_EQ(a.quantised.transposed, b.quantised.transposed);
      EXPECT_EQ(a.quantised.largest, b.quantised.largest);
      EXPECT_EQ(a.product, b.product);
    }
}

struct NormalisedCase {
  int64_t rows, columns;
  bool residual = true, branch = true;
  uint32_t threshold = 0;  // of dropout
};

struct NormalisedResults {
  std::vector<uint8_t> out, transposed;
  float largest = 0;
  Values sum;
  std::vector<float> mean, rstd;
  bool operator==(const NormalisedResults&) const = default;
};

/// LayerNorm and its quantisation, in one pass or in two.
NormalisedResults normalise_and_quantise(const Launch& launch, const NormalisedCase& c, bool in_one_pass,
                                         bool transposed_too = true) {
  const auto elements = static_cast<size_t>(c.rows * c.columns);
  const Array<bf16> residual(random_values<bf16>(c.rows * c.columns, 1, 2)),
      branch(random_values<bf16>(c.rows * c.columns, 2)), scale(random_values<bf16>(c.columns, 3)),
      offset(random_values<bf16>(c.columns, 4)), sum(Values(elements, 0)), y(Values(elements, 0));
  const DeviceArray<float> mean(static_cast<size_t>(c.rows)), rstd(static_cast<size_t>(c.rows)),
      quantum(std::vector<float>{kScale}), largest(std::vector<float>{0});
  const DeviceArray<uint64_t> step(std::vector<uint64_t>{3});
  const DeviceArray<uint8_t> out(elements), transposed(elements);
  kernels::Fp8LayerNorm k{.norm = {.type = DType::bf16,
                                   .rows = c.rows,
                                   .columns = c.columns,
                                   .residual = c.residual ? residual.data() : nullptr,
                                   .branch = c.branch ? branch.data() : nullptr,
                                   .mask = {.seed = 5, .step = step.data(), .threshold = c.threshold},
                                   .sum = c.branch ? sum.data() : nullptr,
                                   .scale = scale.data(),
                                   .offset = offset.data(),
                                   .mean = mean.data(),
                                   .rstd = rstd.data()},
                          .quantize = {.type = DType::bf16,
                                       .rows = c.rows,
                                       .columns = c.columns,
                                       .x = nullptr,
                                       .format = Fp8Format::e4m3,
                                       .scale = quantum.data(),
                                       .largest = largest.data(),
                                       .out = out.data(),
                                       .transposed = transposed_too ? transposed.data() : nullptr}};
  if (in_one_pass) {
    kernels::cuda::fp8_layer_norm(launch, k);
  } else {
    k.norm.y = y.data();
    kernels::cuda::residual_layer_norm(launch, k.norm);
    k.quantize.x = y.data();
    kernels::cuda::fp8_quantize(launch, k.quantize);
  }
  return {out.read(), transposed.read(), largest.read()[0], sum.read(), mean.read(), rstd.read()};
}

TEST_F(CudaFp8, LayerNormsAreQuantisedAsTheyAreComputed) {
  const NormalisedCase cases[] = {{16, 16},
                                  {48, 80, false, true},
                                  {304, 512, true, false},
                                  {304, 528, true, true, 1u << 30},
                                  {1040, 1024},
                                  {4112, 1008, true, true, 1u << 31},
                                  {272, 1024, true, false},
                                  {272, 768, false, true, 1u << 30}};
  for (const NormalisedCase& c : cases) {
    SCOPED_TRACE(::testing::Message() << c.rows << " x " << c.columns);
    const NormalisedResults one = normalise_and_quantise(launch(), c, true);
    EXPECT_GT(one.largest, 0);
    EXPECT_TRUE(one == normalise_and_quantise(launch(), c, false));
  }
  EXPECT_EQ(normalise_and_quantise(launch(), cases[4], true, false).out,
            normalise_and_quantise(launch(), cases[4], true).out);
}

struct QuantisedBackwardCase {
  int64_t rows, columns;
  bool accumulate = false, sums = true, normal = true;
};

struct QuantisedBackwardResults {
  std::vector<uint8_t> out, transposed;
  float largest = 0;
  std::vector<uint8_t> d_x, y;
  bool operator==(const QuantisedBackwardResults&) const = default;
};

struct QuantisedBackward {
  QuantisedBackwardResults same;         // bit for bit, however it is computed
  std::vector<std::vector<float>> sums;  // of columns, in another order
};

/// LayerNorm's backward and the quantisation of what it gives, in one pass or in two.
QuantisedBackward differentiate_and_quantise(const Launch& launch, const QuantisedBackwardCase& c,
                                             bool in_one_pass) {
  const int64_t n = c.rows * c.columns;
  const auto elements = static_cast<size_t>(n), columns = static_cast<size_t>(c.columns);
  const Array<bf16> x(random_values<bf16>(n, 1, 2)), d_y(random_values<bf16>(n, 2)),
      d_sum(random_values<bf16>(n, 3)), d_x(random_values<bf16>(n, 4)), y(Values(elements, 0)),
      scale(random_values<bf16>(c.columns, 5)), offset(random_values<bf16>(c.columns, 6));
  const DeviceArray<float> mean(std::vector<float>(static_cast<size_t>(c.rows), 0.25f)),
      rstd(std::vector<float>(static_cast<size_t>(c.rows), 0.5f)), quantum(std::vector<float>{kScale}),
      largest(std::vector<float>{0}), d_scale(std::vector<float>(columns, 1)), d_offset(columns),
      branch_sums(columns);
  const DeviceArray<uint8_t> out(elements), transposed(elements);
  kernels::Fp8LayerNormBackward k{.norm = {.type = DType::bf16,
                                           .rows = c.rows,
                                           .columns = c.columns,
                                           .x = x.data(),
                                           .scale = scale.data(),
                                           .mean = mean.data(),
                                           .rstd = rstd.data(),
                                           .d_y = d_y.data(),
                                           .d_sum = c.accumulate ? nullptr : d_sum.data(),
                                           .d_x = d_x.data(),
                                           .accumulate_x = c.accumulate,
                                           .d_scale = c.sums ? d_scale.data() : nullptr,
                                           .d_offset = c.sums ? d_offset.data() : nullptr,
                                           .accumulate_scale = true,
                                           .branch_sums = c.sums ? branch_sums.data() : nullptr,
                                           .offset = c.normal ? offset.data() : nullptr,
                                           .y = c.normal ? y.data() : nullptr},
                                  .quantize = {.type = DType::bf16,
                                               .rows = c.rows,
                                               .columns = c.columns,
                                               .x = nullptr,
                                               .format = Fp8Format::e5m2,
                                               .scale = quantum.data(),
                                               .largest = largest.data(),
                                               .out = out.data(),
                                               .transposed = transposed.data()}};
  if (in_one_pass) {
    kernels::cuda::fp8_layer_norm_backward(launch, k);
  } else {
    kernels::cuda::residual_layer_norm_backward(launch, k.norm);
    k.quantize.x = d_x.data();
    kernels::cuda::fp8_quantize(launch, k.quantize);
  }
  QuantisedBackward result{{out.read(), transposed.read(), largest.read()[0], d_x.bytes(), y.bytes()}, {}};
  if (c.sums) result.sums = {d_scale.read(), d_offset.read(), branch_sums.read()};
  return result;
}

Values wide_values(const std::vector<float>& x) {
  return {x.begin(), x.end()};
}

TEST_F(CudaFp8, GradientsOfLayerNormsAreQuantisedAsTheyAreComputed) {
  const QuantisedBackwardCase cases[] = {
      {16, 16},      {48, 80, true},    {304, 512}, {304, 528, true, false}, {1040, 1024, false, true, false},
      {20016, 1008}, {20016, 480, true}};
  for (const QuantisedBackwardCase& c : cases) {
    if (brief_tests() && c.rows > 10000) continue;
    SCOPED_TRACE(::testing::Message() << c.rows << " x " << c.columns);
    const QuantisedBackward one = differentiate_and_quantise(launch(), c, true),
                            two = differentiate_and_quantise(launch(), c, false);
    EXPECT_GT(one.same.largest, 0);
    EXPECT_TRUE(one.same == two.same);
    for (size_t i = 0; i < one.sums.size(); ++i)
      expect_close(wide_values(one.sums[i]), wide_values(two.sums[i]), {1e-5, 1e-6}, "column sums");
    EXPECT_EQ(differentiate_and_quantise(launch(), c, true).sums, one.sums);
  }
}

TEST_F(CudaFp8, Rescales) {
  constexpr int64_t kSites = 300, kRanks = 3;
  std::mt19937 generator(1);
  std::vector<float> largest(kSites * kRanks), peaks(kSites), scales(8 * kSites, 1);
  for (float& x : largest)
    x = std::ldexp(static_cast<float>(generator() % 1000), static_cast<int>(generator() % 40) - 30);
  for (float& x : peaks)
    x = std::ldexp(static_cast<float>(generator() % 1000), static_cast<int>(generator() % 40) - 30);
  // One that calibration reads, and one of another rank.
  largest[kSites + 5] = largest[6] = std::numeric_limits<float>::infinity();
  peaks[5] = 0;
  const DeviceArray<float> device_largest(largest), device_peaks(peaks), device_scales(scales);
  kernels::StepScalars scalars{};
  scalars.finite = 1;
  const DeviceArray<kernels::StepScalars> device_scalars(std::vector{scalars});
  const auto arguments = [&](float* s, float* l, float* p, const kernels::StepScalars* control) {
    return kernels::Fp8Rescale{.sites = kSites,
                               .all_sites = kSites,
                               .ranks = kRanks,
                               .rank = 1,
                               .scales = s,
                               .largest = l,
                               .peaks = p,
                               .scalars = control};
  };
  for (const bool step : {false, true}) {
    kernels::cpu::fp8_rescale(
        arguments(scales.data(), largest.data(), peaks.data(), step ? &scalars : nullptr));
    kernels::cuda::fp8_rescale(launch(),
                               arguments(device_scales.data(), device_largest.data(), device_peaks.data(),
                                         step ? device_scalars.data() : nullptr));
    EXPECT_EQ(device_scales.read(), scales);
    EXPECT_EQ(device_peaks.read(), peaks);
    EXPECT_EQ(device_largest.read(), largest);
  }
}

}  // namespace
}  // namespace perceiver::testing
