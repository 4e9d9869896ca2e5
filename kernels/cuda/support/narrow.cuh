// Numbers of eight bits, of weights and caches, one at a time.
#pragma once

#include <cuda_fp8.h>

#include "kernels/cuda/support/common.cuh"
#include "kernels/dequantize.h"

namespace perceiver::kernels::cuda {

/// A number of DType::i8.
struct Int8 {
  int8_t value;
};
/// A number of DType::e4m3.
struct E4m3 {
  uint8_t code;
};

__device__ inline float to_float(Int8 x) {
  return static_cast<float>(x.value);
}
/// Exponent and mantissa move to where f32 has them, whose exponents are 120 less; subnormal numbers become
/// those of f32.
__device__ inline float to_float(E4m3 x) {
  const uint32_t code = x.code;
  if ((code & 0x7fu) == 0x7fu) return __uint_as_float(0x7fc00000u);
  return __uint_as_float((code & 0x80u) << 24 | (code & 0x7fu) << 20) * 0x1p120f;
}
/// To nearest, clamped to 448.
template <>
__device__ inline E4m3 from_float<E4m3>(float x) {
  return {__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3)};
}

/// Calls body.template operator()<W>() with W = Int8 or E4m3.
template <typename Body>
void with_narrow_type(DType type, Body&& body) {
  require(is_narrow(type), "weights of type i8 or e4m3");
  if (type == DType::i8) {
    body.template operator()<Int8>();
  } else {
    body.template operator()<E4m3>();
  }
}

}  // namespace perceiver::kernels::cuda
