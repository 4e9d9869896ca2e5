// Warp specialisation of the attention kernels: one producer warpgroup loads tiles by TMA, two consume them.
#pragma once

#include "kernels/cuda/hopper/primitives.cuh"

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#pragma nv_diag_suppress 177  // Unused layouts: for other GPUs the kernels are empty.
#endif

namespace perceiver::kernels::cuda::hopper {

inline constexpr int kThreads = 3 * kWarpgroup;
inline constexpr int kConsumerWarps = 8;
inline constexpr uint32_t kConsumerArrivals = kConsumerWarps * kWarpArrivals;  // to release a stage
// The block starts with 168 a thread; setmaxnreg would wait forever for more than that in all.
inline constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
static_assert(kWarpgroup * (kProducerRegisters + 2 * kConsumerRegisters) <= kThreads * 168);

__device__ inline int lane() {
  return static_cast<int>(threadIdx.x) % 32;
}
/// 0 to 7.
__device__ inline int consumer_warp() {
  return static_cast<int>(threadIdx.x) / 32 - 4;
}

/// kTiles boxes of a head, side by side.
template <int kTiles>
__device__ inline void tma_load_tiles(uint32_t target, uint32_t tile_bytes, const CUtensorMap* map,
                                      uint32_t barrier, int head, int row, int example) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
    tma_load_head(target + tile * tile_bytes, map, barrier, tile * kTileColumns, head, row, example);
}

}  // namespace perceiver::kernels::cuda::hopper
