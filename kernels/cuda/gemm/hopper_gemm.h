// Matrix products of bf16 on Hopper whose epilogues do what follows a product (hopper_gemm.cu).
#pragma once

#include "kernels/fp8.h"
#include "kernels/gemm.h"

namespace perceiver::kernels::cuda {

/// A rotation of the first `columns` columns, parts of `part_columns`, as in LinearRotary. Tables are f32.
struct HopperRotation {
  int64_t columns, part_columns;
  int64_t heads, head_dim, bands;
  const int32_t* positions = nullptr;  // null: none
  const float* cosine;
  const float* sine;
};

inline HopperRotation hopper_rotation(const LinearRotary& k) {
  return {.columns = k.parts * k.part_columns,
          .part_columns = k.part_columns,
          .heads = k.heads,
          .head_dim = k.head_dim,
          .bands = k.bands,
          .positions = k.positions,
          .cosine = static_cast<const float*>(k.cosine),
          .sine = static_cast<const float*>(k.sine)};
}

/// out [m, n] = f(A [m, k] · op(B) [k, n] + bias [n]), row-major, bf16. The sums are of f32 and rounded to
/// bf16 before f, so that f gives what a kernel of its own would. To keep instances few, an activation or a
/// rotation needs `transpose_b`; at most one of the two is asked for. With inverse scales A and B are e4m3,
/// as in Fp8Gemm, in multiples of 16 rows and columns, and there must be a rotation.
struct HopperGemm {
  int64_t m, n, k;
  const void* a;
  int64_t lda;
  const void* b;
  int64_t ldb;
  bool transpose_b;  // B is [n, k], else [k, n]
  void* out;
  int64_t ldc;
  const void* bias = nullptr;
  Activation activation = Activation::identity;
  HopperRotation rotation = {};
  void* pre = nullptr;  // [m, n], as far apart as `out`: the sums before the activation, if they are wanted
  const float *a_inverse = nullptr, *b_inverse = nullptr;  // null: bf16 operands
};

/// A product without what follows it.
inline HopperGemm hopper_product(const Gemm& g) {
  return {.m = g.m,
          .n = g.n,
          .k = g.k,
          .a = g.a,
          .lda = g.lda,
          .b = g.b,
          .ldb = g.ldb,
          .transpose_b = g.transpose_b,
          .out = g.c,
          .ldc = g.ldc,
          .bias = g.bias};
}

/// The same of 8-bit operands, e4m3.
inline HopperGemm hopper_product(const Fp8Gemm& g) {
  return {.m = g.m,
          .n = g.n,
          .k = g.k,
          .a = g.a,
          .lda = g.k,
          .b = g.b,
          .ldb = g.k,
          .transpose_b = true,
          .out = g.c,
          .ldc = g.n,
          .bias = g.bias,
          .a_inverse = g.a_inverse,
          .b_inverse = g.b_inverse};
}

/// Whether the build, the device, and the alignment of the operands allow it. A rotation needs heads of 32,
/// 64 or 128 channels.
bool hopper_gemm_possible(const HopperGemm& g);

/// out = product * activation'(kept [m, n]), `kept` as in BiasActivationBackward and its rows as far apart as
/// those of `out`. The product has B as it lies and nothing else that follows; it is rounded before, and the
/// derivative as well.
struct HopperGemmDerivative {
  HopperGemm product;
  Activation activation;
  const void* kept;
  float* column_sums = nullptr;  // [hopper_gemm_sums(m), n]: sums of `out` over 64 rows each
};

/// Parts that the column sums of m rows are left in.
constexpr int64_t hopper_gemm_sums(int64_t m) {
  return (m + 63) / 64;
}

/// As for HopperGemm; not for the identity, which keeps nothing.
bool hopper_gemm_possible(const HopperGemmDerivative& g);

void hopper_gemm_derivative(const Launch& launch, const HopperGemmDerivative& g);

/// Whether its tiles keep at least half of the GPU busy. A result of fewer takes as long as one tile, where
/// cuBLASLt has smaller tiles.
bool hopper_gemm_fills(const Launch& launch, int64_t m, int64_t n);

/// Whether its tiles fill waves of the GPU, at least four and the last one nearly: then the product takes
/// little longer than cuBLASLt's, less than what a pass over the result takes. Elsewhere smaller tiles do
/// better by more.
bool hopper_gemm_fills_waves(const Launch& launch, int64_t m, int64_t n);

void hopper_gemm(const Launch& launch, const HopperGemm& g);

}  // namespace perceiver::kernels::cuda
