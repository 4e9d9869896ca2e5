// Linear layers whose heads are rotated: on Hopper by the product (tile_rotation.cuh), elsewhere, and where
// cuBLASLt's product is faster by more than the pass takes, by a pass of its own.
#include "kernels/cuda/gemm/hopper_gemm.h"
#include "kernels/gemm.h"

namespace perceiver::kernels::cuda {
namespace {

HopperGemm fused(const LinearRotary& k) {
  HopperGemm product = hopper_product(product_of(k));
  product.rotation = {.columns = k.parts * k.part_columns,
                      .part_columns = k.part_columns,
                      .heads = k.heads,
                      .head_dim = k.head_dim,
                      .bands = k.bands,
                      .positions = k.positions,
                      .cosine = static_cast<const float*>(k.cosine),
                      .sine = static_cast<const float*>(k.sine)};
  return product;
}

}  // namespace

void linear_rotary(const Launch& launch, const LinearRotary& k) {
  if (k.type == DType::bf16 && hopper_gemm_fills_waves(launch, k.rows, k.columns)) {
    const HopperGemm product = fused(k);
    if (hopper_gemm_possible(product)) return hopper_gemm(launch, product);
  }
  cuda::gemm(launch, product_of(k));
  rotate_parts(k, [&](const Rotary& part) { cuda::rotary(launch, part); });
}

}  // namespace perceiver::kernels::cuda
