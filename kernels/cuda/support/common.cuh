// What all CUDA kernels share: launch checks, element types, sums over warps and blocks.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cuda/support/errors.h"

namespace perceiver::kernels::cuda {

/// Call it after a launch: reports a wrong configuration; a fault inside the kernel shows at the next
/// synchronisation.
inline void check_launch(const char* kernel) {
  check(cudaGetLastError(), kernel);
}

inline cudaStream_t stream_of(const Launch& launch) {
  return static_cast<cudaStream_t>(launch.stream);
}

/// Calls body.template operator()<T>() with T = float or __nv_bfloat16; f64 is for the CPU only.
template <typename Body>
void with_type(DType type, Body&& body) {
  require(type == DType::f32 || type == DType::bf16, "element type f32 or bf16");
  if (type == DType::bf16) {
    body.template operator()<__nv_bfloat16>();
  } else {
    body.template operator()<float>();
  }
}

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

template <typename T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/// Sum over the 32 lanes, in every lane, in a fixed order.
template <typename T>
__device__ inline T warp_sum(T x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

__device__ inline float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

/// Sum over a block of kThreads (a multiple of 32), in every thread. Call it from all of them.
template <int kThreads, typename T>
__device__ inline T block_sum(T x) {
  constexpr int kWarps = kThreads / 32;
  __shared__ T parts[kWarps];
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  T sum = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) sum += parts[warp];
  return sum;
}

}  // namespace perceiver::kernels::cuda
