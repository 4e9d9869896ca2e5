// Bias and activation of a linear layer, and their backward including the bias gradient (column sums in a
// fixed order).
#include <cmath>
#include <numbers>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/row.h"
#include "kernels/cpu/scratch.h"
#include "kernels/gemm.h"

namespace perceiver::kernels::cpu {
namespace {

constexpr double kGeluSlope = std::numbers::sqrt2 * std::numbers::inv_sqrtpi;  // sqrt(2 / pi)
constexpr double kGeluCubic = 0.044715;
constexpr double kNormalDensity = std::numbers::inv_sqrtpi / std::numbers::sqrt2;  // 1 / sqrt(2 pi)

/// Phi(x) = P(normal < x); erfc keeps it accurate where it is small.
template <typename T>
T normal_cdf(T x) {
  return T(0.5) * std::erfc(-x * T(1 / std::numbers::sqrt2));
}

template <typename T>
void activate(Activation activation, const ConstRow<T>& x, Row<T> y) {
  switch (activation) {
    case Activation::identity:
      y = x;
      return;
    case Activation::squared_relu:
      y = x.max(T(0)).square();
      return;
    case Activation::relu:
      y = x.max(T(0));
      return;
    case Activation::silu:
      y = x / (T(1) + (-x).exp());
      return;
    case Activation::gelu:
      y = T(0.5) * x * (T(1) + (T(kGeluSlope) * (x + T(kGeluCubic) * x.cube())).tanh());
      return;
    case Activation::gelu_exact:
      y = x * x.unaryExpr(&normal_cdf<T>);
      return;
  }
}

/// d = d_out * activation', where x is what BiasActivationBackward::kept holds.
template <typename T>
void differentiate(Activation activation, const ConstRow<T>& x, const ConstRow<T>& d_out, Row<T> d) {
  switch (activation) {
    case Activation::identity:
      d = d_out;
      return;
    case Activation::squared_relu:
      d = T(2) * x.sqrt() * d_out;
      return;
    case Activation::relu:
      d = (x > T(0)).select(d_out, T(0));
      return;
    case Activation::silu: {
      d = d_out * (T(1) / (T(1) + (-x).exp())) * (T(1) + x * (T(1) - T(1) / (T(1) + (-x).exp())));
      return;
    }
    case Activation::gelu: {
      const auto t = (T(kGeluSlope) * (x + T(kGeluCubic) * x.cube())).tanh().eval();
      d = d_out * (T(0.5) * (T(1) + t) +
                   T(0.5 * kGeluSlope) * x * (T(1) - t.square()) * (T(1) + T(3 * kGeluCubic) * x.square()));
      return;
    }
    case Activation::gelu_exact:
      d = d_out * (x.unaryExpr(&normal_cdf<T>) + T(kNormalDensity) * x * (T(-0.5) * x.square()).exp());
      return;
  }
}

template <typename T>
void forward(const BiasActivation& k) {
  const int64_t columns = k.columns;
  T* pre = static_cast<T*>(k.pre);
  T* out = static_cast<T*>(k.out);
  const T* bias = static_cast<const T*>(k.bias);
  parallel_for(k.rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      Row<T> x(pre + r * columns, columns);
      if (bias != nullptr) x += ConstRow<T>(bias, columns);
      if (out != nullptr)
        activate<T>(k.activation, ConstRow<T>(x.data(), columns), Row<T>(out + r * columns, columns));
    }
  });
}

struct BiasTag;

template <typename T>
void backward(const BiasActivationBackward& k) {
  const int64_t columns = k.columns, stride = k.stride > 0 ? k.stride : columns;
  const T* pre = static_cast<const T*>(k.kept);
  const T* d_out = static_cast<const T*>(k.d_out);
  T* d_pre = static_cast<T*>(k.d_pre);
  T* sums = scratch<BiasTag, T>(static_cast<size_t>(kReductionParts * columns));
  parallel_for(kReductionParts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      Row<T> sum(sums + part * columns, columns);
      sum.setZero();
      for (int64_t r = k.rows * part / kReductionParts; r < k.rows * (part + 1) / kReductionParts; ++r) {
        const ConstRow<T> d(d_out + r * stride, columns);
        if (k.activation == Activation::identity) {
          sum += d;
          continue;
        }
        Row<T> target(d_pre + r * columns, columns);
        differentiate<T>(k.activation, ConstRow<T>(pre + r * columns, columns), d, target);
        sum += target;
      }
    }
  });
  if (k.d_bias == nullptr) return;
  Row<T> d_bias(static_cast<T*>(k.d_bias), columns);
  if (!k.accumulate_bias) d_bias.setZero();
  for (int64_t part = 0; part < kReductionParts; ++part) d_bias += Row<T>(sums + part * columns, columns);
}

}  // namespace

void bias_activation(const BiasActivation& k) {
  with_type(k.type, [&]<typename T>() { forward<T>(k); });
}

void bias_activation_backward(const BiasActivationBackward& k) {
  if (k.activation == Activation::identity && k.d_bias == nullptr) return;
  with_type(k.type, [&]<typename T>() { backward<T>(k); });
}

}  // namespace perceiver::kernels::cpu
