// Linear layers with an activation: a product, then a pass over its result.
#include "kernels/gemm.h"

namespace perceiver::kernels::cpu {

void linear_activation(const LinearActivation& k) {
  gemm(product_of(k));
  bias_activation(activation_of(k));
}

void linear_activation_backward(const LinearActivationBackward& k) {
  gemm(product_of(k));
  bias_activation_backward(activation_of(k));
}

}  // namespace perceiver::kernels::cpu
