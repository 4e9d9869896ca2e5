// Matrix products, and the bias, activation and rotation that follow. Part of the interface in
// kernels/backend.h.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/embedding.h"
#include "perceiver/config.h"

namespace perceiver::kernels {

/// C [m, n] = op(A) [m, k] · op(B) [k, n] + bias [n] + addend [m, n], row-major. C has type `out_type`, and
/// so has the addend, which lies as C does and is not C; A, B and bias have `type`. Bias and addend exclude
/// `accumulate`. With a `batch`, so many products, whose matrices follow each other at the strides; without
/// bias and addend.
struct Gemm {
  DType type, out_type;
  bool transpose_a = false, transpose_b = false;
  int64_t m, n, k;
  const void* a;
  int64_t lda;
  const void* b;
  int64_t ldb;
  void* c;
  int64_t ldc;
  bool accumulate = false;
  const void* bias = nullptr;
  const void* addend = nullptr;
  int64_t batch = 1;
  int64_t stride_a = 0, stride_b = 0, stride_c = 0;  // elements from one product to the next
};

/// out [rows, columns] = x [rows, depth] · weightᵀ + bias, weight [columns, depth] row-major; reads the
/// weights once, for few rows. Batch-invariant: the order in which an element is summed does not depend on
/// `rows`. `weight_type` is `type`, on the CPU also bf16 or i8 with f32 activations, on a GPU also i8 or
/// e4m3; of the last two, a weight is its column's scale times the number.
struct SkinnyGemm {
  DType type, weight_type;
  int64_t rows, columns, depth;
  const void* x;
  const void* weight;
  const void* weight_scale = nullptr;  // i8 and e4m3: f32 [columns]
  const void* bias = nullptr;          // [columns] of `type`
  void* out;
};

/// Whether backward reads the activation's result instead of its argument: for these two the result
/// determines the derivative just as exactly, so the argument need not be kept.
constexpr bool derives_from_output(Activation activation) {
  return activation == Activation::relu || activation == Activation::squared_relu;
}

/// pre [rows, columns] += bias in place; out = activation(pre). `out` is null for identity, and may be `pre`
/// when there is no bias.
struct BiasActivation {
  DType type;
  int64_t rows, columns;
  Activation activation;
  void* pre;
  const void* bias = nullptr;
  void* out = nullptr;
};

/// d_pre = d_out * activation' (d_pre may be d_out; untouched for identity); d_bias (+)= column sums of
/// d_pre.
struct BiasActivationBackward {
  DType type;
  int64_t rows, columns;
  Activation activation;
  const void* kept = nullptr;  // derives_from_output: activation(pre), else pre; null for identity
  const void* d_out;
  void* d_pre = nullptr;   // null for identity
  void* d_bias = nullptr;  // null: not wanted
  bool accumulate_bias = false;
  int64_t stride = 0;  // identity: row stride of d_out, whose padding must be finite; 0: columns
};

/// out = activation(pre), pre [rows, columns] = x [rows, depth] · weightᵀ + bias.
struct LinearActivation {
  DType type;
  int64_t rows, columns, depth;
  const void* x;
  const void* weight;  // [columns, depth]
  const void* bias = nullptr;
  Activation activation;
  void* pre;
  void* out;  // may be `pre`, which is then not kept
};

/// Backward of an activation [rows, columns] and the linear layer that reads it: d_pre = (d_out [rows, depth]
/// · weight) * activation'; d_bias (+)= column sums of d_pre.
struct LinearActivationBackward {
  DType type;
  int64_t rows, columns, depth;
  const void* d_out;
  const void* weight;  // [depth, columns]
  Activation activation;
  const void* kept;  // as in BiasActivationBackward
  void* d_pre;
  void* d_bias = nullptr;  // null: not wanted
  bool accumulate_bias = false;
};

/// out [rows, columns] = x [rows, depth] · weightᵀ + bias, rounded to `type`, of which the first columns are
/// `parts` parts of `part_columns`, such as queries and keys. In each part the first `heads` heads of
/// `head_dim` channels are rotated as by Rotary (kernels/embedding.h); positions, cosine and sine as there.
struct LinearRotary {
  DType type;
  int64_t rows, columns, depth;
  const void* x;
  const void* weight;  // [columns, depth]
  const void* bias = nullptr;
  void* out;
  int64_t parts, part_columns;
  int64_t heads, head_dim, bands;
  const int32_t* positions;  // [rows]
  const void* cosine;
  const void* sine;
};

/// The product of a linear layer, LinearActivation or LinearRotary, into `out`.
template <typename Linear>
constexpr Gemm linear_product(const Linear& k, void* out) {
  return {.type = k.type,
          .out_type = k.type,
          .transpose_b = true,
          .m = k.rows,
          .n = k.columns,
          .k = k.depth,
          .a = k.x,
          .lda = k.depth,
          .b = k.weight,
          .ldb = k.depth,
          .c = out,
          .ldc = k.columns,
          .bias = k.bias};
}

/// The products and element-wise passes that those are.
constexpr Gemm product_of(const LinearActivation& k) {
  return linear_product(k, k.pre);
}
constexpr BiasActivation activation_of(const LinearActivation& k) {
  return {.type = k.type,
          .rows = k.rows,
          .columns = k.columns,
          .activation = k.activation,
          .pre = k.pre,
          .out = k.out};
}
constexpr Gemm product_of(const LinearActivationBackward& k) {
  return {.type = k.type,
          .out_type = k.type,
          .m = k.rows,
          .n = k.columns,
          .k = k.depth,
          .a = k.d_out,
          .lda = k.depth,
          .b = k.weight,
          .ldb = k.columns,
          .c = k.d_pre,
          .ldc = k.columns};
}
constexpr BiasActivationBackward activation_of(const LinearActivationBackward& k) {
  return {.type = k.type,
          .rows = k.rows,
          .columns = k.columns,
          .activation = k.activation,
          .kept = k.kept,
          .d_out = k.d_pre,
          .d_pre = k.d_pre,
          .d_bias = k.d_bias,
          .accumulate_bias = k.accumulate_bias};
}
constexpr Gemm product_of(const LinearRotary& k) {
  return linear_product(k, k.out);
}
/// Calls rotate(Rotary) for each part, or once for all if their rotated heads are side by side.
template <typename Rotate>
void rotate_parts(const LinearRotary& k, Rotate&& rotate) {
  const bool side_by_side = k.heads * k.head_dim == k.part_columns;
  const auto part_bytes = static_cast<int64_t>(size_of(k.type)) * k.part_columns;
  for (int64_t part = 0; part < (side_by_side ? 1 : k.parts); ++part)
    rotate(Rotary{.type = k.type,
                  .rows = k.rows,
                  .row_stride = k.columns,
                  .heads = side_by_side ? k.parts * k.heads : k.heads,
                  .head_dim = k.head_dim,
                  .bands = k.bands,
                  .x = static_cast<unsigned char*>(k.out) + part * part_bytes,
                  .positions = k.positions,
                  .cosine = k.cosine,
                  .sine = k.sine});
}

PERCEIVER_KERNEL(gemm, Gemm)
PERCEIVER_KERNEL(skinny_gemm, SkinnyGemm)
PERCEIVER_KERNEL(bias_activation, BiasActivation)
PERCEIVER_KERNEL(bias_activation_backward, BiasActivationBackward)
PERCEIVER_KERNEL(linear_activation, LinearActivation)
PERCEIVER_KERNEL(linear_activation_backward, LinearActivationBackward)
PERCEIVER_KERNEL(linear_rotary, LinearRotary)

}  // namespace perceiver::kernels
