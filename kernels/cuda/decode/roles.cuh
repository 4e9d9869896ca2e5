// The roles of a block's warps in the fused decode step, their registers, and the named barriers at which
// they meet: 8 consumer warps; then one warpgroup with the producer warp and, where all vectors go through
// flagged buffers, an epilogue warp for every two slots. The other warps of that warpgroup idle: registers
// are traded by whole warpgroups.
#pragma once

#include "kernels/cuda/hopper/primitives.cuh"

namespace perceiver::kernels::cuda {

inline constexpr int kConsumerWarps = 8;
inline constexpr int kConsumers = kConsumerWarps * 32;
inline constexpr int kProducerWarp = kConsumerWarps;
inline constexpr int kEpilogueWarp = kProducerWarp + 1;  // the first
inline constexpr int kDecodeThreads = kConsumers + 128;

// Slots up to which partials and results of attention go through flagged buffers; up to which all vectors do
// (flagged_consumer.cuh).
inline constexpr int kFewSlots = 8, kFlaggedSlots = 4;
/// Of a kernel compiled for `slots`.
__host__ __device__ constexpr bool is_flagged(int slots) {
  return slots <= kFlaggedSlots;
}
/// Half a warp has the outputs of a slot.
__host__ __device__ constexpr int epilogue_warps(int slots) {
  return (slots + 1) / 2;
}

/// Registers of a thread.
template <int kSlots>
struct DecodeRegisters {
  static constexpr bool kFlagged = is_flagged(kSlots);
  static constexpr bool kFew = !kFlagged && kSlots <= kFewSlots;  // neither an epilogue nor copies of inputs
  static constexpr int kConsumer = kFlagged ? 216 : (kFew ? 224 : 208);
  static constexpr int kProducer = kFlagged ? 72 : (kFew ? 56 : 88);
  // 384 threads start with 168 registers each; asking for more in total would wait forever.
  static_assert(kConsumers * kConsumer + 128 * kProducer <= kDecodeThreads * 168);
};

__device__ inline void consumer_barrier() {
  asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory");
}

/// The epilogue arrives when it has published the outputs of a phase.
template <int kSlots>
struct EpilogueBarrier {
  static constexpr int kThreads = kConsumers + epilogue_warps(kSlots) * 32;
  __device__ static void arrive() { asm volatile("bar.arrive 4, %0;" ::"n"(kThreads) : "memory"); }
  __device__ static void wait() { asm volatile("bar.sync 4, %0;" ::"n"(kThreads) : "memory"); }
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define PERCEIVER_DECODE_SM90 1

/// Named barriers between the producer and the other threads during the block's setup. The producer
/// initialises the mbarriers of the ring and starts copying; the others build the plans and tables that it
/// needs after its first phase.
struct SetupBarriers {
  __device__ static void ring_is_ready() { arrive<2>(); }
  __device__ static void plans_are_ready() { arrive<3>(); }
  __device__ static void wait_for_ring() { wait<2>(); }
  __device__ static void wait_for_plans() { wait<3>(); }

 private:
  template <int kBarrier>
  __device__ static void arrive() {
    asm volatile("bar.arrive %0, %1;" ::"n"(kBarrier), "n"(kDecodeThreads) : "memory");
  }
  template <int kBarrier>
  __device__ static void wait() {
    asm volatile("bar.sync %0, %1;" ::"n"(kBarrier), "n"(kDecodeThreads) : "memory");
  }
};

/// Changes the number of registers of this thread. Call it from the whole warpgroup.
template <int kRegisters, bool kMore>
__device__ inline void set_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  if constexpr (kMore) {
    hopper::warpgroup_reg_alloc<kRegisters>();
  } else {
    hopper::warpgroup_reg_dealloc<kRegisters>();
  }
#endif
}

#endif

}  // namespace perceiver::kernels::cuda
