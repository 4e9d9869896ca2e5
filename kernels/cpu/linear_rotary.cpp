// Linear layers whose heads are rotated: a product, then a pass over its result.
#include "kernels/gemm.h"

namespace perceiver::kernels::cpu {

void linear_rotary(const LinearRotary& k) {
  gemm(product_of(k));
  rotate_parts(k, rotary);
}

}  // namespace perceiver::kernels::cpu
