// Matrix products in float32 whose elements do not depend on the shape around them.
#pragma once

#include "kernels/gemm.h"

namespace perceiver::kernels::cpu {

/// C [m, n] (+)= op(A) [m, k] · op(B) [k, n], float32, on the calling thread. An element has the same bits in
/// any number of rows and columns, and whether A and B are transposed or not. `bias` is ignored.
void packed_gemm(const Gemm& g);

}  // namespace perceiver::kernels::cpu
