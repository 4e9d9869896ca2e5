// What Muon does to a matrix beside its products (kernels/gemm.h). Part of the interface in
// kernels/backend.h.
//
// Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"): the Nesterov momentum
// U of a matrix's gradient is divided by its Frobenius norm and then made nearly orthogonal (singular values
// near 1) by steps of Newton and Schulz's iteration, X' = a X + b (X Xᵀ) X + c (X Xᵀ)² X. Its step has the
// root mean square of Adam's if it is scaled by 0.2 sqrt(max(rows, columns)) (Liu et al. 2025, "Muon is
// scalable for LLM training", section 2.2).
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/optimizer.h"

namespace perceiver::kernels {

/// With g = scalars->gradient_scale * gradient: b = decay * b + g, update = g + decay * b (Nesterov). All of
/// `type`.
struct MuonMomentum {
  DType type;
  int64_t elements;
  const void* gradients;
  void* momentum;  // b
  void* update;
  double decay;
  const StepScalars* scalars;
};

/// y = x / (sqrt(sum_of_squares) + 1e-7), rounded to `to`.
struct MuonNormalize {
  DType from, to;
  int64_t elements;
  const void* x;
  const double* sum_of_squares;
  void* y;
};

/// square = a I + b matrix + c square, with the coefficients of Jordan et al.; [count, size, size].
struct MuonPolynomial {
  DType type;
  int64_t count, size;
  const void* matrix;
  void* square;
};

/// p -= lr * (weight_decay * p + scale * update); p of `type`.
struct MuonStep {
  DType type, update_type;
  int64_t elements;
  void* parameters;
  const void* update;
  double scale, weight_decay;
  const StepScalars* scalars;
};

inline constexpr double kMuonEpsilon = 1e-7;
inline constexpr double kMuonA = 3.4445, kMuonB = -4.7750, kMuonC = 2.0315;

PERCEIVER_KERNEL(muon_momentum, MuonMomentum)
PERCEIVER_KERNEL(muon_normalize, MuonNormalize)
PERCEIVER_KERNEL(muon_polynomial, MuonPolynomial)
PERCEIVER_KERNEL(muon_step, MuonStep)

}  // namespace perceiver::kernels
