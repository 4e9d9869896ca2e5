// Linear layers with an activation: on Hopper in the product's epilogue (hopper_gemm.cu), elsewhere, and for
// few rows, by a pass of their own.
#include "kernels/cuda/gemm/hopper_gemm.h"
#include "kernels/cuda/support/column_sums.cuh"
#include "kernels/gemm.h"

namespace perceiver::kernels::cuda {
namespace {

/// Whether the epilogue's kernel, of `fused` (a HopperGemm or HopperGemmDerivative), can run, and has enough
/// to do.
template <typename Fused>
bool suits(const Launch& launch, const Gemm& product, const Fused& fused) {
  return product.type == DType::bf16 && hopper_gemm_fills(launch, product.m, product.n) &&
         hopper_gemm_possible(fused);
}

}  // namespace

void linear_activation(const Launch& launch, const LinearActivation& k) {
  const Gemm product = product_of(k);
  HopperGemm fused = hopper_product(product);
  fused.out = k.out;
  fused.activation = k.activation;
  if (k.out != k.pre) fused.pre = k.pre;
  if (suits(launch, product, fused)) return hopper_gemm(launch, fused);
  cuda::gemm(launch, product);
  cuda::bias_activation(launch, activation_of(k));
}

void linear_activation_backward(const Launch& launch, const LinearActivationBackward& k) {
  const int64_t parts = hopper_gemm_sums(k.rows);
  const Gemm product = product_of(k);
  const HopperGemmDerivative fused{
      .product = hopper_product(product),
      .activation = k.activation,
      .kept = k.kept,
      .column_sums = k.d_bias != nullptr ? static_cast<float*>(launch.workspace) : nullptr};
  if (parts > parts_that_fit(launch, k.columns) || !suits(launch, product, fused)) {
    cuda::gemm(launch, product);
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
