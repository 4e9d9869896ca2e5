// CUDA kernels of skinny GEMM and of bias and activation against the CPU's in f64.
#include <gtest/gtest.h>

#include "kernels/cuda/gemm/hopper_gemm.h"
#include "kernels/dequantize.h"
#include "kernels/gemm.h"
#include "tests/support/cuda_products.h"

namespace perceiver::testing {
namespace {

template <typename T>
class CudaGemm : public CudaProductsTest<T> {};
TYPED_TEST_SUITE(CudaGemm, ElementTypes);

TYPED_TEST(CudaGemm, SkinnyGemm) {
  using T = TypeParam;
  for (const auto& [rows, columns, depth] :
       {std::tuple{1, 1, 1}, {3, 70, 100}, {5, 259, 1024}, {9, 33, 4096}, {64, 40, 77}}) {
    const Values x = random_values<T>(rows * depth, 1), weight = random_values<T>(columns * depth, 2),
                 bias = random_values<T>(columns, 3);
    Values expected(static_cast<size_t>(rows * columns));
    kernels::cpu::skinny_gemm({.type = DType::f64,
                               .weight_type = DType::f64,
                               .rows = rows,
                               .columns = columns,
                               .depth = depth,
                               .x = x.data(),
                               .weight = weight.data(),
                               .bias = bias.data(),
                               .out = expected.data()});
    const Array<T> x_device(x), weight_device(weight), bias_device(bias), out(rows * columns), alone(columns);
    kernels::cuda::skinny_gemm(this->launch(), {.type = kType<T>,
                                                .weight_type = kType<T>,
                                                .rows = rows,
                                                .columns = columns,
                                                .depth = depth,
                                                .x = x_device.data(),
                                                .weight = weight_device.data(),
                                                .bias = bias_device.data(),
                                                .out = out.data()});
    const Values all = out.read();
    expect_close(all, expected, {bound_of<T>().relative, 1e-4}, "products");
    for (int64_t r = 0; r < rows; ++r) {
      kernels::cuda::skinny_gemm(this->launch(), {.type = kType<T>,
                                                  .weight_type = kType<T>,
                                                  .rows = 1,
                                                  .columns = columns,
                                                  .depth = depth,
                                                  .x = x_device.data() + r * depth,
                                                  .weight = weight_device.data(),
                                                  .bias = bias_device.data(),
                                                  .out = alone.data()});
      const Values row = alone.read();
      ASSERT_TRUE(std::equal(row.begin(), row.end(), all.begin() + r * columns))
          << "row " << r << " of " << rows;
    }
  }
}

/// Every code but the NaNs of e4m3.
std::vector<uint8_t> all_codes(DType type, int64_t count) {
  std::vector<uint8_t> codes;
  for (int64_t i = 0; i < count; ++i) {
    const auto code = static_cast<uint8_t>(i * 7 + i / 256);
    codes.push_back(type == DType::e4m3 && (code & 0x7f) == 0x7f ? uint8_t{0} : code);
  }
  return codes;
}

std::vector<float> scales(int64_t count) {
  std::vector<float> all;
  for (const double x : random_values<float>(count, 4))
    all.push_back(0.01f * static_cast<float>(std::abs(x)));
  return all;
}

/// On the CPU, of f64 or f32.
template <typename T>
std::vector<T> dequantized(DType weight_type, const std::vector<uint8_t>& codes,
                           const std::vector<float>& scale) {
  std::vector<T> weight(codes.size());
  const auto rows = static_cast<int64_t>(scale.size());
  kernels::cpu::dequantize({.type = DTypeOf<T>::value,
                            .weight_type = weight_type,
                            .rows = rows,
                            .columns = static_cast<int64_t>(codes.size()) / rows,
                            .weight = codes.data(),
                            .scale = scale.data(),
                            .out = weight.data()});
  return weight;
}

TYPED_TEST(CudaGemm, Dequantize) {
  using T = TypeParam;
  for (const DType type : {DType::i8, DType::e4m3})
    for (const auto& [rows, columns] : {std::pair{1, 1}, {3, 70}, {5, 1024}, {300, 520}, {64, 77}}) {
      const std::vector<uint8_t> codes = all_codes(type, rows * columns);
      const std::vector<float> scale = scales(rows);
      const DeviceArray<uint8_t> codes_device(codes);
      const DeviceArray<float> scale_device(scale);
      const Array<T> out(rows * columns);
      kernels::cuda::dequantize(this->launch(), {.type = kType<T>,
                                                 .weight_type = type,
                                                 .rows = rows,
                                                 .columns = columns,
                                                 .weight = codes_device.data(),
                                                 .scale = scale_device.data(),
                                                 .out = out.data()});
      const std::vector<float> expected = dequantized<float>(type, codes, scale);
      EXPECT_EQ(out.read(), rounded<T>(Values(expected.begin(), expected.end())));
    }
}

TYPED_TEST(CudaGemm, SkinnyGemmWithNarrowWeights) {
  using T = TypeParam;
  for (const DType type : {DType::i8, DType::e4m3})
    for (const auto& [rows, columns, depth] :
         {std::tuple{1, 1, 1}, {3, 70, 100}, {5, 259, 1024}, {9, 33, 4096}, {64, 40, 77}}) {
      const Values x = random_values<T>(rows * depth, 1), bias = random_values<T>(columns, 3);
      const std::vector<uint8_t> codes = all_codes(type, columns * depth);
      const std::vector<float> scale = scales(columns);
      const std::vector<double> weight = dequantized<double>(type, codes, scale);
      Values expected(static_cast<size_t>(rows * columns));
      kernels::cpu::skinny_gemm({.type = DType::f64,
                                 .weight_type = DType::f64,
                                 .rows = rows,
                                 .columns = columns,
                                 .depth = depth,
                                 .x = x.data(),
                                 .weight = weight.data(),
                                 .bias = bias.data(),
                                 .out = expected.data()});
      const DeviceArray<uint8_t> codes_device(codes);
      const DeviceArray<float> scale_device(scale);
      const Array<T> x_device(x), bias_device(bias), out(rows * columns), alone(columns);
      const auto multiply = [&](int64_t first, int64_t count, const Array<T>& to) {
        kernels::cuda::skinny_gemm(this->launch(), {.type = kType<T>,
                                                    .weight_type = type,
                                                    .rows = count,
                                                    .columns = columns,
                                                    .depth = depth,
                                                    .x = x_device.data() + first * depth,
                                                    .weight = codes_device.data(),
                                                    .weight_scale = scale_device.data(),
                                                    .bias = bias_device.data(),
                                                    .out = to.data()});
      };
      multiply(0, rows, out);
      const Values all = out.read();
      expect_close(all, expected, {bound_of<T>().relative, 1e-4}, "products");
      multiply(rows - 1, 1, alone);
      const Values last = alone.read();
      EXPECT_TRUE(std::equal(last.begin(), last.end(), all.end() - columns));
    }
}

struct MatrixCase {
  int64_t rows, columns, shift = 0;
};
const MatrixCase kMatrixCases[] = {{700, 512}, {65, 40, 1}, {33, 259}, {5, 1}, {1, 4096}, {1200, 136}};
constexpr Activation kActivations[] = {Activation::identity, Activation::squared_relu,
                                       Activation::gelu,     Activation::silu,
                                       Activation::relu,     Activation::gelu_exact};

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

TYPED_TEST(CudaGemm, BiasActivation) {
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

TYPED_TEST(CudaGemm, BiasActivationBackward) {
  for (const MatrixCase& c : kMatrixCases)
    for (const Activation activation : kActivations) {
      check_bias_backward<TypeParam>(this->launch(), c, activation, true, false);
      check_bias_backward<TypeParam>(this->launch(), c, activation, true, true);
      check_bias_backward<TypeParam>(this->launch(), c, activation, false, false);
    }
}

/// Products with columns that are no multiple of 8 in rows that are: logits of odd vocabularies.
TYPED_TEST(CudaGemm, ProductsWithAnAddend) {
  using T = TypeParam;
  const Launch launch = this->products_launch();
  for (const auto& [m, n, k] : {std::tuple{300, 264, 72}, {130, 259, 72}, {256, 512, 1024}})
    for (const bool biased : {false, true}) {
      const Values a = random_values<T>(m * k, 1), b = random_values<T>(n * k, 2, 1 / std::sqrt(k)),
                   bias = random_values<T>(n, 3), addend = random_values<T>(m * n, 4);
      Values expected(static_cast<size_t>(m * n));
      kernels::Gemm product{.type = DType::f64,
                            .out_type = DType::f64,
                            .transpose_b = true,
                            .m = m,
                            .n = n,
                            .k = k,
                            .a = a.data(),
                            .lda = k,
                            .b = b.data(),
                            .ldb = k,
                            .c = expected.data(),
                            .ldc = n,
                            .bias = biased ? bias.data() : nullptr,
                            .addend = addend.data()};
      kernels::cpu::gemm(product);
      const Array<T> a_a(a), a_b(b), a_bias(bias), a_addend(addend), a_c(m * n);
      product.type = product.out_type = kType<T>;
      product.a = a_a.data(), product.b = a_b.data(), product.c = a_c.data();
      product.bias = biased ? a_bias.data() : nullptr, product.addend = a_addend.data();
      kernels::cuda::gemm(launch, product);
      const double rounding = sizeof(T) > 2 ? 1e-4 : 6e-3;  // of sums before bias and addend
      expect_close(a_c.read(), expected, {2 * bound_of<T>().relative, rounding}, "products");
      EXPECT_EQ(a_addend.read(), addend);
    }
}

TYPED_TEST(CudaGemm, ProductsWithRaggedColumns) {
  using T = TypeParam;
  const Launch launch = this->products_launch();
  for (const auto& [m, n, k, transposed] :
       {std::tuple{300, 259, 72, true}, {130, 264, 259, false}, {3, 5, 3, true}, {700, 41, 41, false}})
    for (const bool accumulate : {false, true}) {
      const auto padded = [](int64_t columns) { return (columns + 7) / 8 * 8; };
      const int64_t lda = padded(k), ldb = transposed ? padded(k) : padded(n), ldc = padded(n);
      const Values a = random_values<T>(m * lda, 1), b = random_values<T>((transposed ? n : k) * ldb, 2),
                   old = random_values<T>(m * ldc, 3);
      Values expected(old);
      kernels::Gemm product{.type = DType::f64,
                            .out_type = DType::f64,
                            .transpose_b = transposed,
                            .m = m,
                            .n = n,
                            .k = k,
                            .a = a.data(),
                            .lda = lda,
                            .b = b.data(),
                            .ldb = ldb,
                            .c = expected.data(),
                            .ldc = ldc,
                            .accumulate = accumulate};
      kernels::cpu::gemm(product);
      const Array<T> a_a(a), a_b(b), a_c(old);
      product.type = product.out_type = kType<T>;
      product.a = a_a.data(), product.b = a_b.data(), product.c = a_c.data();
      kernels::cuda::gemm(launch, product);
      const Values c = a_c.read();
      expect_close(c, expected, {2 * bound_of<T>().relative, 1e-4}, "products");
      for (int64_t i = 0; i < m * ldc; ++i)
        ASSERT_TRUE(i % ldc < n || c[static_cast<size_t>(i)] == old[static_cast<size_t>(i)])
            << "padding " << i;
    }
}

/// Rows and columns beyond and within tiles of 128 x 256, more tiles than a wave of blocks, columns that are
/// no multiple of 8, and what is not aligned.
struct ProductCase {
  int64_t rows, columns, depth, shift = 0;
};
const ProductCase kProductCases[] = {{300, 520, 200},  {128, 256, 64}, {1, 8, 8},
                                     {2500, 2304, 72}, {65, 41, 33},   {40, 264, 136, 1}};

template <typename T>
void check_linear_activation(const Launch& launch, const ProductCase& c, Activation activation, bool keeps) {
  const int64_t n = c.rows * c.columns;
  const Values x = random_values<T>(c.rows * c.depth, 1),
               weight = random_values<T>(c.columns * c.depth, 2, 1 / std::sqrt(c.depth)),
               bias = random_values<T>(c.columns, 3);
  Values pre(static_cast<size_t>(n)), out(static_cast<size_t>(n));
  kernels::cpu::linear_activation({.type = DType::f64,
                                   .rows = c.rows,
                                   .columns = c.columns,
                                   .depth = c.depth,
                                   .x = x.data(),
                                   .weight = weight.data(),
                                   .bias = bias.data(),
                                   .activation = activation,
                                   .pre = pre.data(),
                                   .out = out.data()});
  const Array<T> a_x(x, c.shift), a_weight(weight, c.shift), a_bias(bias), a_pre(n, c.shift),
      a_out(n, c.shift);
  kernels::linear_activation(launch, {.type = kType<T>,
                                      .rows = c.rows,
                                      .columns = c.columns,
                                      .depth = c.depth,
                                      .x = a_x.data(),
                                      .weight = a_weight.data(),
                                      .bias = a_bias.data(),
                                      .activation = activation,
                                      .pre = keeps ? a_pre.data() : a_out.data(),
                                      .out = a_out.data()});
  // An activation's argument is rounded, and squared ReLU's slope grows with it.
  const Bound bound{3 * bound_of<T>().relative, 3 * bound_of<T>().absolute};
  // cuBLASLt has kernels that round sums to bf16 before they add the bias.
  const bool aligned = c.shift == 0 && c.columns % 8 == 0 && c.depth % 8 == 0;
  const bool own = aligned && kernels::cuda::hopper_gemm_fills(launch, c.rows, c.columns);
  const double rounding = own || sizeof(T) > 2 ? 0 : 3e-3;
  expect_close(a_out.read(), out, {bound.relative, bound.absolute + rounding}, "out");
  if (!keeps) return;
  expect_close(a_pre.read(), pre, {bound_of<T>().relative, bound_of<T>().absolute + rounding}, "pre");
  // Backward computes the activation again where only its argument is kept.
  const Array<T> a_again(n, c.shift);
  kernels::bias_activation(launch, {.type = kType<T>,
                                    .rows = c.rows,
                                    .columns = c.columns,
                                    .activation = activation,
                                    .pre = a_pre.data(),
                                    .out = a_again.data()});
  EXPECT_EQ(a_again.read(), a_out.read());
}

/// Few multiprocessors are kept busy by few tiles: then small cases take the kernel for large ones, too.
constexpr int kFewMultiprocessors = 4;

TYPED_TEST(CudaGemm, LinearActivation) {
  Launch launch = this->products_launch();
  for (const int multiprocessors : {launch.sm_count, kFewMultiprocessors})
    for (const ProductCase& c : kProductCases)
      for (const Activation activation : kActivations) {
        if (activation == Activation::identity || (brief_tests() && c.rows > 1000)) continue;
        launch.sm_count = multiprocessors;
        check_linear_activation<TypeParam>(launch, c, activation, true);
        check_linear_activation<TypeParam>(launch, c, activation, false);
      }
}

template <typename T>
void check_linear_activation_backward(const Launch& launch, const ProductCase& c, Activation activation,
                                      bool with_bias, bool accumulate) {
  const int64_t n = c.rows * c.columns;
  const Values d_out = random_values<T>(c.rows * c.depth, 1),
               weight = random_values<T>(c.depth * c.columns, 2, 1 / std::sqrt(c.depth)),
               old = random_values<float>(c.columns, 3);
  Values kept = random_values<T>(n, 4);
  if (kernels::derives_from_output(activation))
    for (double& value : kept) value = std::max(0.0, value);
  Values d_pre(static_cast<size_t>(n)), d_bias(old);
  kernels::cpu::linear_activation_backward({.type = DType::f64,
                                            .rows = c.rows,
                                            .columns = c.columns,
                                            .depth = c.depth,
                                            .d_out = d_out.data(),
                                            .weight = weight.data(),
                                            .activation = activation,
                                            .kept = kept.data(),
                                            .d_pre = d_pre.data(),
                                            .d_bias = d_bias.data(),
                                            .accumulate_bias = accumulate});
  const Array<T> a_d_out(d_out, c.shift), a_weight(weight, c.shift), a_kept(kept, c.shift),
      a_d_pre(n, c.shift);
  const Array<float> a_d_bias(old);
  kernels::linear_activation_backward(launch, {.type = kType<T>,
                                               .rows = c.rows,
                                               .columns = c.columns,
                                               .depth = c.depth,
                                               .d_out = a_d_out.data(),
                                               .weight = a_weight.data(),
                                               .activation = activation,
                                               .kept = a_kept.data(),
                                               .d_pre = a_d_pre.data(),
                                               .d_bias = with_bias ? a_d_bias.data() : nullptr,
                                               .accumulate_bias = accumulate});
  const Bound bound{2 * bound_of<T>().relative, 2 * bound_of<T>().absolute};
  expect_close(a_d_pre.read(), d_pre, bound, "d_pre");
  // Of numbers that were rounded twice.
  const Bound of_sums{bound.relative, sizeof(T) == 2 ? 3e-3 : 2e-5};
  expect_close(a_d_bias.read(), with_bias ? d_bias : old, of_sums, "d_bias");
}

TYPED_TEST(CudaGemm, LinearActivationBackward) {
  Launch launch = this->products_launch();
  for (const int multiprocessors : {launch.sm_count, kFewMultiprocessors})
    for (const ProductCase& c : kProductCases)
      for (const Activation activation : kActivations) {
        if (activation == Activation::identity || (brief_tests() && c.rows > 1000)) continue;
        launch.sm_count = multiprocessors;
        check_linear_activation_backward<TypeParam>(launch, c, activation, true, false);
        check_linear_activation_backward<TypeParam>(launch, c, activation, true, true);
        check_linear_activation_backward<TypeParam>(launch, c, activation, false, false);
      }
}

/// Numbers of which products and sums are exact, and squares of bf16 numbers, rounded: what is kept of a
/// squared ReLU. Its derivative is then twice the number that was squared.
TYPED_TEST(CudaGemm, DerivativeOfASquaredReluIsExact) {
  using T = TypeParam;
  const int64_t rows = 200, columns = 264, depth = 64;
  Launch launch = this->products_launch();
  Values d_out(static_cast<size_t>(rows * depth)), weight(static_cast<size_t>(depth * columns));
  for (size_t i = 0; i < d_out.size(); ++i) d_out[i] = static_cast<double>(i * 7 % 9) - 4;
  for (size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<double>(i * 5 % 7) - 3;
  Values pre = random_values<T>(rows * columns, 4), squares, expected(static_cast<size_t>(rows * columns));
  for (double& x : pre) {
    x = std::max(0.0, x);
    squares.push_back(x * x);
  }
  squares = rounded<T>(squares);
  kernels::cpu::gemm({.type = DType::f64,
                      .out_type = DType::f64,
                      .m = rows,
                      .n = columns,
                      .k = depth,
                      .a = d_out.data(),
                      .lda = depth,
                      .b = weight.data(),
                      .ldb = columns,
                      .c = expected.data(),
                      .ldc = columns});
  expected = rounded<T>(expected);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] *= 2 * pre[i];
  expected = rounded<T>(expected);
  const Array<T> a_d_out(d_out), a_weight(weight), a_kept(squares), a_d_pre(rows * columns);
  launch.sm_count = kFewMultiprocessors;
  kernels::linear_activation_backward(launch, {.type = kType<T>,
                                               .rows = rows,
                                               .columns = columns,
                                               .depth = depth,
                                               .d_out = a_d_out.data(),
                                               .weight = a_weight.data(),
                                               .activation = Activation::squared_relu,
                                               .kept = a_kept.data(),
                                               .d_pre = a_d_pre.data()});
  if constexpr (sizeof(T) == 2) {
    EXPECT_EQ(a_d_pre.read(), expected);
  } else {
    expect_close(a_d_pre.read(), expected, bound_of<T>(), "d_pre");
  }
}

TYPED_TEST(CudaGemm, BiasGradientRepeats) {
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
TYPED_TEST(CudaGemm, ActivationsOfLargeInputs) {
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

}  // namespace
}  // namespace perceiver::testing
