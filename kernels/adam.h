// The formulas of Adam (Kingma and Ba 2015, algorithm 1), which LAMB shares: one copy for the CPU, where the
// operands are Eigen arrays, and for CUDA, where they are floats.
#pragma once

#include <cmath>
#include <concepts>

#include "kernels/optimizer.h"

#ifdef __CUDACC__
#define PERCEIVER_HOST_DEVICE __host__ __device__
#else
#define PERCEIVER_HOST_DEVICE
#endif

namespace perceiver::kernels {

template <std::floating_point T>
PERCEIVER_HOST_DEVICE inline T square(T x) {
  return x * x;
}

/// The scalars in the element type. 1 - beta is formed in double and rounded once: from a float beta2 of
/// 0.999 it would be wrong in the fifth digit.
template <typename T>
struct AdamScalars {
  T rate, scale, beta1, beta2, rest1, rest2, epsilon, first_correction, second_correction;

  template <typename Moment, typename Gradient>
  PERCEIVER_HOST_DEVICE void update_moments(Moment& first, Moment& second, const Gradient& gradient) const {
    first = beta1 * first + rest1 * gradient;
    second = beta2 * second + rest2 * square(gradient);
  }
  template <typename Moment>
  PERCEIVER_HOST_DEVICE auto direction(const Moment& first, const Moment& second) const {
    using std::sqrt;
    return first * first_correction / (sqrt(second * second_correction) + epsilon);
  }
};

/// `k` is an Adam or a Lamb whose scalars can be read here.
template <typename T, typename Arguments>
PERCEIVER_HOST_DEVICE inline AdamScalars<T> adam_scalars(const Arguments& k) {
  const double update = k.scalars->update;
  return {.rate = static_cast<T>(k.scalars->learning_rate),
          .scale = static_cast<T>(k.scalars->gradient_scale),
          .beta1 = static_cast<T>(k.beta1),
          .beta2 = static_cast<T>(k.beta2),
          .rest1 = static_cast<T>(1 - k.beta1),
          .rest2 = static_cast<T>(1 - k.beta2),
          .epsilon = static_cast<T>(k.epsilon),
          .first_correction = static_cast<T>(1 / (1 - std::pow(k.beta1, update))),
          .second_correction = static_cast<T>(1 / (1 - std::pow(k.beta2, update)))};
}

}  // namespace perceiver::kernels
