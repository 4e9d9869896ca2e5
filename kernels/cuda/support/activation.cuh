// The activations, elementwise in f32.
#pragma once

#include "kernels/cuda/support/common.cuh"
#include "perceiver/config.h"

namespace perceiver::kernels::cuda {

inline constexpr float kGeluSlope = 0.7978845608028654f;  // sqrt(2 / pi)
inline constexpr float kGeluCubic = 0.044715f;

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

}  // namespace perceiver::kernels::cuda
