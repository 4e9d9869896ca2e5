// Products of few rows with a large matrix of eight-bit weights.
#pragma once

#include "kernels/gemm.h"

namespace perceiver::kernels::cpu {

/// skinny_gemm for i8 weights and f32 activations.
void int8_skinny_gemm(const SkinnyGemm& k);

}  // namespace perceiver::kernels::cpu
