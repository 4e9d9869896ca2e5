// The ring of stages in shared memory through which the producer streams weights and cache rows to the
// consumers, each stage with an mbarrier for full and one for empty (shared_memory.cuh).
#pragma once

#include "kernels/cuda/decode/roles.cuh"

namespace perceiver::kernels::cuda {

using hopper::bulk_load;
using hopper::fence_proxy_async;
using hopper::kWarpArrivals;
using hopper::mbarrier_arrive_warp;
using hopper::mbarrier_expect_tx;
using hopper::mbarrier_init;
using hopper::mbarrier_test_wait;
using hopper::mbarrier_wait;

// A tile of weights: up to 8 rows by 1024 columns. Rows are padded by 64 bytes so that the 8 lanes of a
// 16-byte access, four to a row, hit different banks.
inline constexpr int kTileRows = 8;
inline constexpr int kTileColumns = 1024;
inline constexpr int kRowPitch = kTileColumns * 2 + 64;
inline constexpr int kStageBytes = kTileRows * kRowPitch;
inline constexpr int kCacheTileBytes = 16384;  // a tile of keys and values
inline constexpr int kMinStages = 4, kMaxStages = 16;
inline constexpr int kPassTiles = 4;  // of outputs, whose sums are added between two barriers of a block

// Tiles of one head (head_attention.cuh): channels; rows of a tile and of a warp; tiles processed together.
inline constexpr int kHeadWidth = 64, kHeadTileRows = 64, kHeadRows = 16;
inline constexpr int kHeadTiles = kConsumerWarps * kHeadRows / kHeadTileRows;
/// Of a tile's keys, after which its values are.
__host__ __device__ constexpr int head_key_bytes(int element_bytes) {
  return kHeadTileRows * kHeadWidth * element_bytes;
}
static_assert(2 * head_key_bytes(2) == kCacheTileBytes);

#ifdef PERCEIVER_DECODE_SM90

/// A position in the ring.
struct RingCursor {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance(int stages) {
    if (++stage < stages) return;
    stage = 0;
    parity ^= 1;
  }
  /// `by` stages on, at most once around the ring.
  __device__ RingCursor moved(int by, int stages) const {
    RingCursor other{stage + by, parity};
    if (other.stage >= stages) other.stage -= stages, other.parity ^= 1;
    return other;
  }
};

/// Makes the current phase of the mbarrier wait for the copies that this thread has started so far.
__device__ inline void copies_arrive(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

#endif

}  // namespace perceiver::kernels::cuda
