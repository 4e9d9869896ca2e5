// Clusters of thread blocks: loads that reach several of them, and mbarriers of other blocks.
#pragma once

#include "kernels/cuda/hopper/primitives.cuh"

namespace perceiver::kernels::cuda::hopper {

__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

/// Barrier of all threads of the cluster.
__device__ inline void cluster_sync() {
  asm volatile(
      "barrier.cluster.arrive.release;\n"
      "barrier.cluster.wait.acquire;" ::
          : "memory");
}

/// Arrives at the mbarrier that has this address in the cluster's block `rank`. Orders this thread's accesses
/// within its block alone: release at the scope of the cluster is a fence of all memory (MEMBAR.ALL.GPU),
/// which a stage whose readers are done does not need, and which halves the rate of a product.
__device__ inline void mbarrier_arrive_in(uint32_t barrier, uint32_t rank) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}\n" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

/// tma_load into the same place of every block in `blocks`, a bit each, and its mbarrier there.
__device__ inline void tma_load_multicast(uint32_t target, const CUtensorMap* map, uint32_t barrier,
                                          int column, int row, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%3, %4, %5}], [%2], %6;" ::"r"(target),
      "l"(map), "r"(barrier), "r"(column), "r"(row), "r"(0), "h"(blocks)
      : "memory");
}

/// Four 8x8 matrices of 16-bit elements from registers to shared memory; the inverse of load_matrices.
__device__ inline void store_matrices(uint32_t address, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(r[0]),
               "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

}  // namespace perceiver::kernels::cuda::hopper
