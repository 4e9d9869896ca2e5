// Variables put aside in shared memory while an attention needs the registers.
#pragma once

#include "kernels/cuda/decode/shared_memory.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

/// Puts variables of 4 bytes, the same in all lanes of the warp, at an address in shared memory. What the
/// compiler spills to local memory instead is read again in every phase, and each read can take as long as
/// one from the L2 cache, since shared memory leaves little of L1.
template <typename... Values>
__device__ __forceinline__ void put_aside(uint32_t at, const Values&... values) {
  uint32_t offset = 0;
  const auto put = [&](auto value) {
    static_assert(sizeof(value) == 4);
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(at + offset), "r"(static_cast<uint32_t>(value)) : "memory");
    offset += 4;
  };
  (put(values), ...);
  __syncwarp();
}

template <typename... Values>
__device__ __forceinline__ void take_back(uint32_t at, Values&... values) {
  uint32_t offset = 0;
  const auto take = [&](auto& value) {
    uint32_t word;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(at + offset) : "memory");
    value = static_cast<std::remove_reference_t<decltype(value)>>(word);
    offset += 4;
  };
  (take(values), ...);
}

#endif
}  // namespace perceiver::kernels::cuda
