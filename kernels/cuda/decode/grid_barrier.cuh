// The barrier over the whole grid of the fused decode step.
#pragma once

#include "kernels/cuda/decode/shared_memory.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

/// A barrier over all consumers of the grid, split into arrive and wait. The arrival count only grows, by a
/// multiple of the grid per launch, so it needs no reset. The leader is a thread of the last warp, since the
/// first warp has the most to do between the halves.
class GridBarrier {
 public:
  __device__ GridBarrier(const DecodeArguments& a, DecodeShared& shared)
      : arrivals_(a.arrivals), target_(shared.arrivals_target) {
    if (threadIdx.x != kLeader) return;
    const unsigned long long now = load(arrivals_);
    target_ = now - now % gridDim.x;
  }
  /// Publishes what the consumers of this block wrote.
  __device__ void arrive() {
    consumer_barrier();
    if (threadIdx.x != kLeader) return;
    target_ += gridDim.x;
    asm volatile("red.release.gpu.global.add.u64 [%0], 1;" ::"l"(arrivals_) : "memory");
  }
  __device__ void wait() {
    if (threadIdx.x == kLeader) poll(arrivals_, target_);
    consumer_barrier();
  }
  /// Lets the producer wait, in place of the consumers; `arrived`: an mbarrier that tells it the target.
  __device__ void delegate(uint32_t arrived) {
    if (threadIdx.x == kLeader) hopper::mbarrier_arrive(arrived);
    __syncwarp();
  }
  /// By one thread.
  __device__ static void poll(const unsigned long long* arrivals, unsigned long long target) {
    while (load(arrivals) < target) {
    }
  }

 private:
  static constexpr unsigned kLeader = kConsumers - 32;

  __device__ static unsigned long long load(const unsigned long long* arrivals) {
    unsigned long long value;
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(arrivals) : "memory");
    return value;
  }
  unsigned long long* arrivals_;
  unsigned long long& target_;  // in shared memory, since it is the leader's alone
};

#endif
}  // namespace perceiver::kernels::cuda
