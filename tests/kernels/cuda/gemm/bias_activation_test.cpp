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
class CudaBiasActivation : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaBiasActivation, ElementTypes);

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
  kernels::cpu::bias_activation({DType::f64, c.rows, c.columns, Activation::identity, pre.data(),
                                 with_bias ? bias.data() : nullptr, nullptr});
  Values stored = rounded<T>(pre);
  if (activated)
    kernels::cpu::bias_activation(
        {DType::f64, c.rows, c.columns, activation, stored.data(), nullptr, out.data()});
  const Array<T> a_pre(in, c.shift), a_bias(bias), a_out(n, c.shift);
  kernels::bias_activation(launch, {kType<T>, c.rows, c.columns, activation, a_pre.data(),
                                    with_bias ? a_bias.data() : nullptr, activated ? a_out.data() : nullptr});
  expect_close(a_pre.read(), pre, bound_of<T>(), "pre");
  if (activated) expect_close(a_out.read(), out, bound_of<T>(), "out");
}

TYPED_TEST(CudaBiasActivation, BiasActivation) {
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
      random_values<T>(n, 1, 3);  // what backward keeps: of some activations the output, never negative
  if (kernels::derives_from_output(activation))
    for (double& value : pre) value = std::max(0.0, value);
  Values d_pre(d_out), d_bias(old);
  kernels::cpu::bias_activation_backward({DType::f64, c.rows, c.columns, activation, pre.data(), d_out.data(),
                                          d_pre.data(), d_bias.data(), in_place});
  const Array<T> a_pre(pre, c.shift), a_d_out(d_out, c.shift), a_d_pre(n, c.shift);
  const Array<float> a_d_bias(old);
  const Array<T>& target = in_place ? a_d_out : a_d_pre;
  kernels::bias_activation_backward(
      launch, {kType<T>, c.rows, c.columns, activation, activated ? a_pre.data() : nullptr, a_d_out.data(),
               activated ? target.data() : nullptr, with_bias ? a_d_bias.data() : nullptr, in_place});
  if (activated) expect_close(target.read(), d_pre, bound_of<T>(), "d_pre");
  expect_close(a_d_bias.read(), with_bias ? d_bias : old, {1e-5, 2e-5}, "d_bias");
}

TYPED_TEST(CudaBiasActivation, BiasActivationBackward) {
  for (const MatrixCase& c : kMatrixCases)
    for (const Activation activation : kActivations) {
      check_bias_backward<TypeParam>(this->launch(), c, activation, true, false);
      check_bias_backward<TypeParam>(this->launch(), c, activation, true, true);
      check_bias_backward<TypeParam>(this->launch(), c, activation, false, false);
    }
}

TYPED_TEST(CudaBiasActivation, BiasGradientRepeats) {
  using T = TypeParam;
  const int64_t rows = 9000, columns = 264;
  const Array<T> d_out(random_values<T>(rows * columns, 1));
  const Array<float> d_bias(columns);
  this->expect_repeatable([] {},
                          [&] {
                            kernels::bias_activation_backward(
                                this->launch(), {kType<T>, rows, columns, Activation::identity, nullptr,
                                                 d_out.data(), nullptr, d_bias.data(), false});
                          },
                          d_bias);
}

/// Activations far out stay finite where the function is.
TYPED_TEST(CudaBiasActivation, ActivationsOfLargeInputs) {
  using T = TypeParam;
  const Values in{-1e4, -300, -100, -88, -50, -12, -0.0, 12, 50, 88, 100, 300, 1e4, -1e-3, 1e-3, 1};
  const auto n = static_cast<int64_t>(in.size());
  for (const Activation activation : {Activation::gelu, Activation::silu}) {
    Values x = rounded<T>(in), ones(in.size(), 1), out(x), d(x);
    kernels::cpu::bias_activation({DType::f64, 1, n, activation, x.data(), nullptr, out.data()});
    kernels::cpu::bias_activation_backward(
        {DType::f64, 1, n, activation, x.data(), ones.data(), d.data(), nullptr, false});
    const Array<T> a_x(x), a_ones(ones), a_out(n), a_d(n);
    kernels::bias_activation(this->launch(), {kType<T>, 1, n, activation, a_x.data(), nullptr, a_out.data()});
    kernels::bias_activation_backward(
        this->launch(), {kType<T>, 1, n, activation, a_x.data(), a_ones.data(), a_d.data(), nullptr, false});
    const Bound bound{sizeof(T) == 2 ? 1.0 / 128 : 1e-5, 1e-12};
    expect_close(a_out.read(), out, bound, "out");
    expect_close(a_d.read(), d, {bound.relative, 1e-6}, "d");
  }
}

}  // namespace
}  // namespace perceiver
