// Matrix products, and the bias and activation that follow them. Part of the interface in kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "perceiver/config.h"

namespace perceiver::kernels {

/// C [m, n] = op(A) [m, k] · op(B) [k, n] + bias [n], row-major. C has `out_type`, A, B and bias `type`; bias
/// is null for none and only without accumulate.
struct Gemm {
  DType type, out_type;
  bool transpose_a, transpose_b;
  int64_t m, n, k;
  const void* a;
  int64_t lda;
  const void* b;
  int64_t ldb;
  void* c;
  int64_t ldc;
  bool accumulate;
  const void* bias = nullptr;
};

/// out [rows, columns] = x [rows, depth] · weightᵀ + bias, weight [columns, depth] row-major: for few rows,
/// reading the weights once. Each element is one sum in an order of its own, whatever `rows` is.
/// `weight_type` is `type`, or on the CPU bf16 beside f32.
struct SkinnyGemm {
  DType type, weight_type;
  int64_t rows, columns, depth;
  const void* x;
  const void* weight;
  const void* bias;  // [columns] of `type`; null: none
  void* out;
};

/// Whether backward reads the activation's result instead of its argument: these two tell the derivative from
/// it as exactly, and the argument need not be kept.
constexpr bool derives_from_output(Activation activation) {
  return activation == Activation::relu || activation == Activation::squared_relu;
}

/// pre [rows, columns] += bias in place; out = activation(pre). `bias` may be null; `out` is null for
/// identity; it may be `pre` where there is no bias.
struct BiasActivation {
  DType type;
  int64_t rows, columns;
  Activation activation;
  void* pre;
  const void* bias;
  void* out;
};

/// d_pre = d_out * activation' (d_pre may be d_out; untouched for identity); d_bias (+)= column sums of
/// d_pre.
struct BiasActivationBackward {
  DType type;
  int64_t rows, columns;
  Activation activation;
  const void* kept;  // derives_from_output: activation(pre), else pre; null for identity
  const void* d_out;
  void* d_pre;   // null for identity
  void* d_bias;  // null: not wanted
  bool accumulate_bias;
  int64_t stride = 0;  // identity: elements between rows of d_out, those beyond `columns` finite; 0: columns
};

PERCEIVER_KERNEL(gemm, Gemm)
PERCEIVER_KERNEL(skinny_gemm, SkinnyGemm)
PERCEIVER_KERNEL(bias_activation, BiasActivation)
PERCEIVER_KERNEL(bias_activation_backward, BiasActivationBackward)

}  // namespace perceiver::kernels
