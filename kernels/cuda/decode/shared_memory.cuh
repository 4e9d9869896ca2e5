// How the decode kernel lays out shared memory: mbarriers and attention plans (DecodeShared), tables of block
// weights, inputs of products, partial sums, the mixed tables of table_attention.cuh, and last the ring.
#pragma once

#include "kernels/cuda/decode/arguments.cuh"

namespace perceiver::kernels::cuda {

/// This step's work of self- or cross-attention.
struct AttentionPlan {
  AttentionShape shape;
  int tiles_before[kMaxSlots + 1];  // tiles of one group of heads before each slot
  int blocks;                       // that have tiles
  int begin, end;                   // tiles of this block
  int rows[kMaxSlots];              // valid rows; 0: the slot is idle
  int new_row[kMaxSlots];           // the row that this step writes
};

/// Where the partials of 8 channels of a head are (combine.cuh).
struct HeadPiece {
  const uint64_t* words;
  int channel, count;
};

/// Of a Phase; and of what is put aside, for a warp. With 60 layers and one slot 224 bytes are left before
/// the ring would have a stage less.
inline constexpr int kPhaseBytes = 88, kAsideWords = 12;

/// What a phase is in every block of a kind: a product's outputs and inputs, the offsets of its weights and
/// LayerNorm in the block's entry of the table, a ProductInput and a ProductOutput.
struct alignas(16) BlockStep {
  int rows, columns;
  uint8_t linear, norm, input, output;
};
inline constexpr int kBlockSteps = 5;

/// LayerNorm where all vectors go through flagged buffers: each warp's sums of values and squares of each
/// slot, double-buffered, and what it takes them about.
struct FlaggedNorm {
  float2 moments[2][kFlaggedSlots][kConsumerWarps];
  float centers[kFlaggedSlots][kConsumerWarps];
};

struct DecodeShared {
  uint64_t full[kMaxStages], empty[kMaxStages];
  BlockStep steps[2 * kBlockSteps];  // of self blocks and cross blocks
  AttentionPlan cross, self;
  int position[kMaxSlots];
  unsigned long long arrivals_target;  // grid_barrier.cuh
  union {
    // Of the consumers, where registers are short: a Phase each.
    uint64_t phases[kConsumerWarps][kPhaseBytes / 8];
    FlaggedNorm flagged_norm;
  };
  // What aside.cuh puts there.
  uint32_t aside[kConsumerWarps][kAsideWords];
  uint64_t sums_full[2], sums_empty[2];  // where all vectors go through flagged buffers
  float2 moments[kConsumerWarps];        // LayerNorm with many slots: a warp's mean and sum of squares
  HeadPiece pieces[2][kConsumerWarps];   // with few slots: each warp's first, of self- and cross-attention
  uint32_t first_flag;
  bool clears;
  uint64_t inputs_made;  // with many slots, an mbarrier: the consumers have arrived at the barrier before it
};

/// Inputs of one warp's columns of 4 tiles, for one slot; from one slot to the next, in other banks.
inline constexpr int kInputBytes = 1024, kInputPitch = kInputBytes + 64;

// Attention: partials of the warps that share a head, [2, warp, 128 + 4] floats, double-buffered; of a head
// of 256 channels [warp, 256 + 4]. Combining: those of one piece of a head, [2, warp, 4] float4.
inline constexpr int kBufferedHeadWidth = 128;
inline constexpr int kWarpPartialFloats = kConsumerWarps * (kBufferedHeadWidth + 4),
                     kWarpPartialBytes = 2 * kWarpPartialFloats * 4;
inline constexpr int kMergeQuadruples = kConsumerWarps * 4, kMergeBytes = 2 * kMergeQuadruples * 16;

/// Offsets in shared memory, in bytes, after DecodeShared.
struct DecodeLayout {
  int cross_table, self_table, rows, sums, table, ring;
  __host__ __device__ static int align(int bytes) { return (bytes + 127) / 128 * 128; }
  __host__ __device__ DecodeLayout(int slots, int cross_count, int layer_count, int table_bytes) {
    cross_table = align(static_cast<int>(sizeof(DecodeShared)));
    self_table = cross_table + align(cross_count * static_cast<int>(sizeof(DecodeCross)));
    rows = self_table + align(layer_count * static_cast<int>(sizeof(DecodeSelf)));
    sums = rows + align(rows_bytes(slots));
    table = sums + align(sums_bytes(slots));
    ring = table + align(table_bytes);
  }
  /// Inputs of products.
  __host__ __device__ static int rows_bytes(int slots) {
    if (slots > kFewSlots) return 0;
    return is_flagged(slots) ? kConsumerWarps * warp_input_bytes(slots) : slots * kRowPitch;
  }
  /// Of a warp, where all vectors go through flagged buffers.
  __host__ __device__ static constexpr int warp_input_bytes(int slots) {
    return (slots - 1) * kInputPitch + kInputBytes;
  }
  /// Each warp's outputs of one pass of a product, or attention's partials, in the same place; side by side,
  /// the former twice, and what combining needs, where all vectors go through flagged buffers.
  __host__ __device__ static int sums_bytes(int slots) {
    if (is_flagged(slots)) return 2 * product_bytes(slots) + kMergeBytes + kWarpPartialBytes;
    return product_bytes(slots) > kWarpPartialBytes ? product_bytes(slots) : kWarpPartialBytes;
  }
  /// Warps that divide the columns of a slot among themselves.
  __host__ __device__ static constexpr int parts(int slots) {
    return slots <= 16 ? kConsumerWarps : slots <= 32 ? kConsumerWarps / 2 : kConsumerWarps / 4;
  }
  /// Of the sums of a pass.
  __host__ __device__ static int product_bytes(int slots) {
    return kPassTiles * parts(slots) * slots * kTileRows * 4;
  }
};

}  // namespace perceiver::kernels::cuda
