// Loads and prefetches of the fused decode step.
#pragma once

#include "kernels/cuda/attention/mma.cuh"
#include "kernels/cuda/decode/arguments.cuh"
#include "kernels/cuda/support/shared_access.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

// From the L2 cache, past L1: what other blocks wrote during this kernel.
__device__ inline float4 load_l2(const float* from) {
  return __ldcg(reinterpret_cast<const float4*>(from));
}
__device__ inline uint4 load_l2(const void* from) {
  return __ldcg(reinterpret_cast<const uint4*>(from));
}

/// One cache line.
__device__ inline void prefetch_l2(const void* from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

#endif
}  // namespace perceiver::kernels::cuda
