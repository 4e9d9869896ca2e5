// wgmma products whose operands' descriptors stay in uniform registers, from which wgmma takes them. The
// compiler does not know that a shared-memory address is the same in all lanes where it follows from
// threadIdx or from a loop whose length was loaded: between two products it then computes a descriptor anew
// in ordinary registers and moves it over, a chain of some six instructions. Here an address is broadcast
// once, and the descriptors of further steps are that of the first plus a constant.
#pragma once

#include "kernels/cuda/hopper/primitives.cuh"

namespace perceiver::kernels::cuda::hopper {

/// The first lane's value.
__device__ inline uint32_t uniform(uint32_t x) {
  return __shfl_sync(0xFFFFFFFFu, x, 0);
}

/// The descriptor of an operand that starts `bytes` later. The addition does not leave the lower half.
__device__ inline uint64_t advanced(uint64_t descriptor, uint32_t bytes) {
  return (descriptor & 0xFFFFFFFF00000000u) | (static_cast<uint32_t>(descriptor) + (bytes >> 4));
}

/// C [64, N] = A · Bᵀ over D columns; tiles of A are a_bytes apart, those of B b_bytes. (mm_abt overwrites,
/// mma_ab accumulates: ThunderKittens' names.)
template <int D, int kCount>
__device__ inline void uniform_mm_abt(float (&c)[kCount], uint32_t a, uint32_t a_bytes, uint32_t b,
                                      uint32_t b_bytes) {
  const uint64_t of_a = k_major_descriptor(uniform(a)), of_b = k_major_descriptor(uniform(b));
  for_each_k_step<D / 16>([&]<bool kAdd>(int step) {
    const uint32_t tile = static_cast<uint32_t>(step / 4), column = k_step_offset(step % 4);
    wgmma<kAdd>(c, advanced(of_a, tile * a_bytes + column), advanced(of_b, tile * b_bytes + column));
  });
}

/// The same with A [64, 16 * kSteps] in registers (load_a_fragment).
template <int kSteps, int kCount>
__device__ inline void uniform_mm_abt(float (&c)[kCount], const uint32_t (&a)[kSteps * 4], uint32_t b,
                                      uint32_t b_bytes) {
  const uint64_t of_b = k_major_descriptor(uniform(b));
  for_each_k_step<kSteps>([&]<bool kAdd>(int step) {
    const uint32_t tile = static_cast<uint32_t>(step / 4), column = k_step_offset(step % 4);
    wgmma<kAdd>(c, a + step * 4, advanced(of_b, tile * b_bytes + column));
  });
}

/// C [64, N] += A [64, 16 * kSteps] · B, with A in registers and B [16 * kSteps, N] a tile.
template <int kSteps, int kCount>
__device__ inline void uniform_mma_ab(float (&c)[kCount], const uint32_t (&a)[kSteps * 4], uint32_t b,
                                      uint32_t b_bytes) {
  const uint64_t of_b = mn_major_descriptor(uniform(b), b_bytes);
#pragma unroll
  for (int step = 0; step < kSteps; ++step)
    wgmma_mn_major(c, a + step * 4, advanced(of_b, static_cast<uint32_t>(step) * 16 * kRowBytes));
}

}  // namespace perceiver::kernels::cuda::hopper
