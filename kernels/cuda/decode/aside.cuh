// What the roles of the fused decode step keep in shared memory where registers are short. What the compiler
// spills instead, to local memory, is read again in every phase, and a read can take as long as one from the
// L2 cache: shared memory leaves little of L1, and every wait at the grid barrier clears it.
#pragma once

#include <type_traits>

#include "kernels/cuda/decode/shared_memory.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

/// What a role is short of registers for; by default nothing.
struct RoleRegisters {
  static constexpr bool kPhaseInShared = false;    // phases: they and the program are in shared memory
  static constexpr bool kAsideForContext = false;  // attention over the context: the program is put aside
};

/// Puts variables of 4 bytes, the same in all lanes of the warp, at an address in shared memory.
template <typename... Values>
__device__ __forceinline__ void put_aside(uint32_t at, const Values&... values) {
  __syncwarp();  // all lanes have taken back what was there
  uint32_t offset = 0;
  const auto put = [&](auto value) {
    static_assert(sizeof(value) == 4);
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(at + offset), "r"(static_cast<uint32_t>(value)) : "memory");
    offset += 4;
  };
  (put(values), ...);
  __syncwarp();
}

/// Sets them to what put_aside() put there.
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
