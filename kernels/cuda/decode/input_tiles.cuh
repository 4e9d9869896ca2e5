// Inputs of products for 9 to 64 slots, as they lie in the workspace and in stages of the ring: tiles of 16
// slots (a set) by 32 columns, 1 KiB, of which an access of a warp reads half, 512 neighbouring bytes; a
// set's tiles lie in the order of their columns. A stage of the ring has 16 tiles: the same columns of each
// set.
#pragma once

#include "kernels/cuda/decode/shared_memory.cuh"

namespace perceiver::kernels::cuda {

inline constexpr int kSetSlots = 16;
inline constexpr int kInputColumns = 32;
inline constexpr int kInputTileBytes = kSetSlots * kInputColumns * 2;
inline constexpr int kStageInputTiles = kStageBytes / kInputTileBytes;
static_assert(kStageInputTiles == 16);

/// Sets of a kernel for `slots`; 0 for few slots, whose inputs do not go through the ring.
__host__ __device__ constexpr int input_sets(int slots) {
  return slots <= kFewSlots ? 0 : slots <= 16 ? 1 : slots <= 32 ? 2 : 4;
}

/// Columns of a stage.
template <int kSets>
inline constexpr int kStageColumns = kStageInputTiles / kSets* kInputColumns;
/// Between the tiles of a set and those of the next, in a stage.
template <int kSets>
inline constexpr int kStageSetBytes = kStageInputTiles / kSets* kInputTileBytes;

/// Stages of the inputs of a tile of columns.
__host__ __device__ constexpr int input_stages(int sets) {
  return sets * (kTileColumns / kInputColumns) / kStageInputTiles;
}
/// Tiles of outputs of a pass: their weights and the inputs of a tile of columns are in the ring together.
__host__ __device__ inline int pass_tiles(int stages, int sets) {
  return stages - input_stages(sets) < kPassTiles ? stages - input_stages(sets) : kPassTiles;
}

/// The element of a slot and column.
__device__ inline int input_place(int slot, int column, int columns) {
  const int tile = slot / kSetSlots * (columns / kInputColumns) + column / kInputColumns;
  return (tile * kSetSlots + slot % kSetSlots) * kInputColumns + column % kInputColumns;
}

}  // namespace perceiver::kernels::cuda
