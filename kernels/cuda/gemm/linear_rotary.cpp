// Linear layers whose heads are rotated: on Hopper by the product (tile_rotation.cuh), elsewhere, and where
// cuBLASLt's product is faster by more than the pass takes, by a pass of its own. In 16 or 8 bits.
#include "kernels/cuda/gemm/hopper_gemm.h"
#include "kernels/cuda/support/errors.h"
#include "kernels/fp8.h"
#include "kernels/gemm.h"

namespace perceiver::kernels::cuda {
namespace {

/// Rotates `product` in its epilogue, if that gains.
bool try_in_one(const Launch& launch, HopperGemm product, const LinearRotary& k) {
  if (k.type != DType::bf16 || !hopper_gemm_fills_waves(launch, k.rows, k.columns)) return false;
  product.rotation = hopper_rotation(k);
  if (!hopper_gemm_possible(product)) return false;
  hopper_gemm(launch, product);
  return true;
}

void rotate(const Launch& launch, const LinearRotary& k) {
  rotate_parts(k, [&](const Rotary& part) { cuda::rotary(launch, part); });
}

}  // namespace

void linear_rotary(const Launch& launch, const LinearRotary& k) {
  const Gemm product = product_of(k);
  if (try_in_one(launch, hopper_product(product), k)) return;
  cuda::gemm(launch, product);
  rotate(launch, k);
}

void fp8_linear_rotary(const Launch& launch, const Fp8LinearRotary& k) {
  const Fp8Gemm& product = k.product;
  require(product.a_format == Fp8Format::e4m3 && product.b_format == Fp8Format::e4m3 &&
              product.addend == nullptr && !product.accumulate && !product.precise,
          "a plain product of e4m3");
  if (try_in_one(launch, hopper_product(product), k.rotary)) return;
  cuda::fp8_gemm(launch, product);
  rotate(launch, k.rotary);
}

}  // namespace perceiver::kernels::cuda
