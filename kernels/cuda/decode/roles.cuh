// The roles of a block's warps in the fused decode step, their registers, and the named barriers at which
// they meet: 8 consumer warps; then one warpgroup with the producer warp and, for one slot, the epilogue
// warp. The other warps of that warpgroup idle: registers are traded by whole warpgroups.
#pragma once

#include "kernels/cuda/hopper/primitives.cuh"

namespace perceiver::kernels::cuda {

inline constexpr int kConsumerWarps = 8;
inline constexpr int kConsumers = kConsumerWarps * 32;
inline constexpr int kProducerWarp = kConsumerWarps;
inline constexpr int kEpilogueWarp = kProducerWarp + 1;
inline constexpr int kDecodeThreads = kConsumers + 128;

/// Registers of a thread.
template <int kSlots>
struct DecodeRegisters {
  static constexpr bool kFew = kSlots > 1 && kSlots <= 8;  // the producer only copies weights and caches
  static constexpr int kConsumer = kFew ? 224 : 208, kProducer = kFew ? 56 : 88;
  // 384 threads start with 168 registers each; asking for more in total would wait forever.
  static_assert(kConsumers * kConsumer + 128 * kProducer <= kDecodeThreads * 168);
};

__device__ inline void consumer_barrier() {
  asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory");
}

/// With one slot: the epilogue arrives when it has published the outputs of a phase.
struct EpilogueBarrier {
  static constexpr int kThreads = kConsumers + 32;
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
