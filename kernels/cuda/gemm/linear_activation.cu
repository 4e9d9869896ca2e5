// Linear layers with an activation: on Hopper in the product's epilogue (hopper_gemm.cu), elsewhere, and for
// few rows, by a pass of their own.
#include "kernels/cuda/gemm/hopper_gemm.h"
#include "kernels/cuda/support/column_sums.cuh"
#include "kernels/gemm.h"

namespace perceiver::kernels::cuda {
namespace {

/// Whether the epilogue's kernel, of a HopperGemm or its derivative, can run, and has enough to do.
template <typename Product>
bool suits(const Launch& launch, DType type, const Product& g) {
  return type == DType::bf16 && hopper_gemm_fills(launch, g.m, g.n) && hopper_gemm_possible(g);
}

}  // namespace

void linear_activation(const Launch& launch, const LinearActivation& k) {
  const Gemm product = product_of(k);
  HopperGemm fused = hopper_product(product);
  fused.out = k.out;
  fused.activation = k.activation;
  if (k.out != k.pre) fused.pre = k.pre;
  if (suits(launch, k.type, fused)) return hopper_gemm(launch, fused);
  cuda::gemm(launch, product);
  cuda::bias_activation(launch, activation_of(k));
}

void linear_activation_backward(const Launch& launch, const LinearActivationBackward& k) {
  const int64_t parts = hopper_gemm_sums(k.rows);
  const HopperGemmDerivative fused{
      .m = k.rows,
      .n = k.columns,
      .k = k.depth,
      .a = k.d_out,
      .lda = k.depth,
      .b = k.weight,
      .ldb = k.columns,
      .activation = k.activation,
      .kept = k.kept,
      .out = k.d_pre,
      .ldc = k.columns,
      .column_sums = k.d_bias != nullptr ? static_cast<float*>(launch.workspace) : nullptr};
  if (parts > parts_that_fit(launch, k.columns) || !suits(launch, k.type, fused)) {
    cuda::gemm(launch, product_of(k));
    return cuda::bias_activation_backward(launch, activation_of(k));
  }
  hopper_gemm_derivative(launch, fused);
  if (k.d_bias == nullptr) return;
  sum_parts(launch, {.parts = fused.column_sums,
                     .count = parts,
                     .stride = k.columns,
                     .columns = k.columns,
                     .target = {static_cast<float*>(k.d_bias)},
                     .accumulate = {k.accumulate_bias}});
}

}  // namespace perceiver::kernels::cuda
