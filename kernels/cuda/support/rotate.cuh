// The rotation of a pair of channels (Rotary), for kernels that are to give the same bits.
#pragma once

namespace perceiver::kernels::cuda {

/// Products and sums are rounded as written here, whatever the compiler would contract.
__device__ inline void rotate_pair(float& even, float& odd, float cosine, float sine) {
  const float e = even, o = odd;
  even = __fmaf_rn(e, cosine, -__fmul_rn(o, sine));
  odd = __fmaf_rn(o, cosine, __fmul_rn(e, sine));
}

}  // namespace perceiver::kernels::cuda
