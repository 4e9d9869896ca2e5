// The activations and their derivatives, elementwise in f32.
#pragma once

#include "kernels/cuda/support/common.cuh"
#include "perceiver/config.h"

namespace perceiver::kernels::cuda {

inline constexpr float kGeluSlope = 0.7978845608028654f;  // sqrt(2 / pi)
inline constexpr float kGeluCubic = 0.044715f;
inline constexpr float kNormalDensity = 0.3989422804014327f;  // 1 / sqrt(2 pi)

__device__ inline float sigmoid(float x) {
  return __fdividef(1.0f, 1.0f + expf(-x));
}

/// The argument 2u of the sigmoid in GELU's tanh form, written as (1 + tanh u) / 2 = sigmoid(2u), which stays
/// accurate relative to its value where tanh is near -1.
__device__ inline float gelu_argument(float x) {
  return 2 * kGeluSlope * (x + kGeluCubic * x * x * x);
}

/// Phi(x) = P(normal < x); erfc keeps it accurate where it is small.
__device__ inline float normal_cdf(float x) {
  return 0.5f * erfcf(-x * 0.7071067811865476f);
}

__device__ inline float activated(Activation activation, float x) {
  switch (activation) {
    case Activation::identity:
      return x;
    case Activation::squared_relu:
      return x < 0 ? 0 : x * x;
    case Activation::relu:
      return x < 0 ? 0 : x;
    case Activation::silu:
      return x * sigmoid(x);
    case Activation::gelu:
      return x * sigmoid(gelu_argument(x));
    case Activation::gelu_exact:
      return x * normal_cdf(x);
  }
  return x;
}

/// Within two ulps, and 0 for what is smaller than the smallest normal number.
__device__ inline float fast_sqrt(float x) {
  float root;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
}

/// x is what BiasActivationBackward::kept holds: the result where that determines the derivative.
__device__ inline float derivative(Activation activation, float x) {
  switch (activation) {
    case Activation::identity:
      return 1;
    case Activation::squared_relu:
      return 2 * fast_sqrt(x);
    case Activation::relu:
      return x > 0 ? 1 : 0;
    case Activation::silu: {
      const float s = sigmoid(x);
      return s * (1 + x * sigmoid(-x));
    }
    case Activation::gelu: {
      const float u = gelu_argument(x), s = sigmoid(u);
      return s + 2 * kGeluSlope * x * s * sigmoid(-u) * (1 + 3 * kGeluCubic * x * x);
    }
    case Activation::gelu_exact:
      return normal_cdf(x) + kNormalDensity * x * expf(-0.5f * x * x);
  }
  return 1;
}

/// Branches once: calls body.template operator()<kActivation>().
template <typename Body>
__device__ void with_activation(Activation activation, Body&& body) {
  switch (activation) {
    case Activation::identity:
      return body.template operator()<Activation::identity>();
    case Activation::squared_relu:
      return body.template operator()<Activation::squared_relu>();
    case Activation::relu:
      return body.template operator()<Activation::relu>();
    case Activation::silu:
      return body.template operator()<Activation::silu>();
    case Activation::gelu:
      return body.template operator()<Activation::gelu>();
    case Activation::gelu_exact:
      return body.template operator()<Activation::gelu_exact>();
  }
}

template <int N>
__device__ inline void activate(Activation activation, float (&x)[N]) {
  with_activation(activation, [&]<Activation kActivation>() {
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = activated(kActivation, x[i]);
  });
}

template <int N>
__device__ inline void differentiate(Activation activation, const float (&x)[N], float (&d)[N]) {
  with_activation(activation, [&]<Activation kActivation>() {
#pragma unroll
    for (int i = 0; i < N; ++i) d[i] *= derivative(kActivation, x[i]);
  });
}

/// d *= activation'(x), with the argument x for every activation.
template <int N>
__device__ inline void differentiate_argument(Activation activation, const float (&x)[N], float (&d)[N]) {
  if (activation != Activation::squared_relu) return differentiate(activation, x, d);
#pragma unroll
  for (int i = 0; i < N; ++i) d[i] *= 2 * fmaxf(x[i], 0);
}

}  // namespace perceiver::kernels::cuda
