// What the Hopper backward kernels (hopper_dkdv.cu, hopper_dq.cu; above 128 channels hopper_wide_dkdv.cu,
// hopper_wide_dq.cu) share.
//
// Like the forward kernel, they have a producer warpgroup that loads tiles by TMA into a pipeline of stages
// and two consumer warpgroups (wgmma). A block stays and takes one tile of 128 rows of its own side after
// another, 64 to a warpgroup; for each it iterates over tiles of 64 rows of the other side. While the
// registers of one tile's S and dP become P and dS, the tensor cores run products of the same warpgroup: for
// dQ S of the next tile, for dK and dV the gradients of the previous one (up to D = 96), or dP and the
// product with P (D = 128). Up to D = 64 the own rows are register operands throughout, which leaves the
// bandwidth of shared memory to the other operand.
//
// A warpgroup issues each product unconditionally, and waits for the last ones of a tile before it passes
// over stages that it does not see: they may need the stage that those products still read.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/attention/attention.cuh"
#include "kernels/cuda/hopper/primitives.cuh"
#include "kernels/cuda/hopper/roles.cuh"
#include "kernels/cuda/hopper/uniform_products.cuh"

namespace perceiver::kernels::cuda::hopper {

inline constexpr int kKeyTile = 128, kQueryTile = 128;
inline constexpr int kBackwardQueries = 64;                 // of a tile for dK and dV, and of statistics
inline constexpr uint32_t kOwnTileBytes = 128 * kRowBytes;  // 64 columns of the block's own 128 rows

struct BackwardArguments {
  CUtensorMap q, d_out, k, v;                      // for dK and dV: boxes of 64 (queries) and 128 (keys) rows
  CUtensorMap q_rows, d_out_rows, k_rows, v_rows;  // for dQ: of 128 and 64 rows
  AttentionBackward a;
  float scale, scale_log2;
  int query_tiles, key_tiles;  // of kQueries, of kOwnKeys
  int section_heads;           // PersistentGrid
  float* statistics;           // [batch, heads, query_tiles, 2, kQueries]: LSE in base 2, delta
  int32_t* limits;             // [batch, query_tiles, kQueries], at most `keys`
  int* next_item;              // of dK and dV's dynamic tile scheduler
  // With kCodes, as in Fp8AttentionBackward, in place of d_q, d_k and d_v. Sums: [batch * query_tiles,
  // columns].
  Fp8Quantize quantize;
  int64_t q_column, k_column, v_column;
  float* sum_parts;
};

/// Tiles of kQueries queries for dK and dV, of kKeys keys for dQ.
template <int kD>
struct BackwardShape {
  static constexpr int D = kD, kTiles = (D + kTileColumns - 1) / kTileColumns;
  static constexpr int kQueries = kBackwardQueries, kKeys = 64;
  static constexpr int kOwnKeys = D > 128 ? 64 : kKeyTile;  // a block's tile for dK and dV
  static constexpr bool kOwnInRegisters = kTiles == 1;      // OwnRows
  static constexpr uint32_t kKeyBytes = kTiles * kOwnTileBytes;
  static constexpr uint32_t kQueryTileBytes = kQueries * kRowBytes, kQueryBytes = kTiles * kQueryTileBytes;
};

/// Operand A of a product: a warpgroup's 64 of the block's own rows, D columns, from shared memory (`tiles`),
/// or from registers (up to D = 64), where it is loaded once.
template <int D, bool kRegisters>
struct OwnRows {
  __device__ void load(uint32_t) {}
  /// c = own rows · other rowsᵀ, of warpgroup `group`.
  __device__ void multiply(float (&c)[32], uint32_t tiles, int group, uint32_t other,
                           uint32_t other_bytes) const {
    uniform_mm_abt<D>(c, tiles + static_cast<uint32_t>(group) * 64 * kRowBytes, kOwnTileBytes, other,
                      other_bytes);
  }
  __device__ void fence_operand() {}
};
template <int D>
struct OwnRows<D, true> {
  __device__ void load(uint32_t tiles) { load_a_fragment(operand_, tiles, consumer_warp() * 16); }
  __device__ void multiply(float (&c)[32], uint32_t, int, uint32_t other, uint32_t other_bytes) const {
    uniform_mm_abt<D / 16>(c, operand_, other, other_bytes);
  }
  __device__ void fence_operand() { wgmma_fence_operand(operand_); }
  uint32_t operand_[D / 4];
};

// Instantiated beside their kernels for the widths of with_head_width; kCodes: for 64.
template <typename S, bool kCodes = false>
void launch_dkdv(const Launch& launch, BackwardArguments arguments);
template <typename S, bool kCodes = false>
void launch_dq(const Launch& launch, BackwardArguments arguments);

// Heads of more than 128 channels have kernels of their own.
template <>
void launch_dkdv<BackwardShape<256>>(const Launch& launch, BackwardArguments arguments);
template <>
void launch_dq<BackwardShape<256>>(const Launch& launch, BackwardArguments arguments);

}  // namespace perceiver::kernels::cuda::hopper
