// How the attention kernels divide a block: one warpgroup feeds tiles by TMA, two compute.
#pragma once

#include "kernels/cuda/hopper/primitives.cuh"

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#pragma nv_diag_suppress 177  // Layouts without a use: for other GPUs the kernels are empty.
#endif

namespace perceiver::kernels::cuda::hopper {

inline constexpr int kThreads = 3 * kWarpgroup;
inline constexpr int kComputingWarps = 8;
inline constexpr uint32_t kReleases = kComputingWarps * kWarpArrivals;  // of what all of them have read
// Together what the threads start with, 168 each: more than the block has would be waited for forever.
inline constexpr int kFeedingRegisters = 24, kComputingRegisters = 240;
static_assert(kWarpgroup * (kFeedingRegisters + 2 * kComputingRegisters) <= kThreads * 168);

__device__ inline int lane() {
  return static_cast<int>(threadIdx.x) % 32;
}
/// 0 to 7.
__device__ inline int computing_warp() {
  return static_cast<int>(threadIdx.x) / 32 - 4;
}

/// kTiles boxes beside each other.
template <int kTiles>
__device__ inline void copy_boxes(uint32_t target, uint32_t tile_bytes, const CUtensorMap* map,
                                  uint32_t barrier, int column, int row, int example) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
    copy_box(target + tile * tile_bytes, map, barrier, column + tile * kTileColumns, row, example);
}

}  // namespace perceiver::kernels::cuda::hopper
