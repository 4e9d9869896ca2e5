// Loads and prefetches of the fused decode step.
#pragma once

#include "kernels/cuda/attention/mma.cuh"
#include "kernels/cuda/decode/arguments.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

// From the L2 cache, past L1: what other blocks wrote during this kernel.
__device__ inline float4 load_l2(const float* from) {
  return __ldcg(reinterpret_cast<const float4*>(from));
}
__device__ inline uint4 load_l2(const bf16* from) {
  return __ldcg(reinterpret_cast<const uint4*>(from));
}

/// One cache line.
__device__ inline void prefetch_l2(const void* from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

__device__ inline uint4 load_shared(uint32_t address) {
  uint4 x;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(address));
  return x;
}

__device__ inline uint2 load_shared_pair(uint32_t address) {
  uint2 x;
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(x.x), "=r"(x.y) : "r"(address));
  return x;
}

#endif
}  // namespace perceiver::kernels::cuda
