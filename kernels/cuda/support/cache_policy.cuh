// Copies of data that will not be read again soon: L2 evicts them before the data that it should keep.
#pragma once

#include <cstdint>

namespace perceiver::kernels::cuda {

/// An L2 cache policy for copies: their data are evicted before any other.
__device__ inline uint64_t evict_first() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

/// 16 bytes from global to shared memory, asynchronously (cp.async), with a cache policy.
__device__ inline void copy_async_by(uint64_t policy, uint32_t target, const void* source) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(target),
               "l"(__cvta_generic_to_global(source)), "l"(policy)
               : "memory");
}

}  // namespace perceiver::kernels::cuda
