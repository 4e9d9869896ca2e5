// How outputs and tiles of attention are divided among the blocks of the fused decode step.
#pragma once

#include "kernels/cuda/decode/shared_memory.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

/// This block's share of `count` items, divided among the first `blocks` blocks.
struct Share {
  int begin, end;
  __device__ explicit Share(int count, unsigned blocks = gridDim.x, unsigned block = blockIdx.x)
      : begin(begin_of(block, count, blocks)), end(begin_of(block + 1, count, blocks)) {}
  /// Of the whole grid. `reciprocal` (grid_reciprocal) replaces the division, which would be in every phase.
  __device__ static Share of_grid(int count, uint32_t reciprocal) {
    const unsigned before = static_cast<unsigned>(count) * blockIdx.x;
    Share share;
    share.begin = static_cast<int>(__umulhi(before, reciprocal));
    share.end = static_cast<int>(__umulhi(before + static_cast<unsigned>(count), reciprocal));
    return share;
  }
  /// The block that has item i.
  __device__ static int owner(int i, int count, unsigned blocks) {
    return static_cast<int>((static_cast<unsigned>(i + 1) * blocks - 1) / static_cast<unsigned>(count));
  }

 private:
  Share() = default;
  __device__ static int begin_of(unsigned block, int count, unsigned blocks) {
    return static_cast<int>(static_cast<unsigned>(count) * min(block, blocks) / blocks);
  }
};

/// This block's share of a product for many slots. Columns of more than one tile are divided among groups of
/// blocks, each of which adds its own part of the products: a block then reads fewer inputs, for more
/// outputs.
struct ProductShare {
  int parts, part;
  Share tiles;
  int first_column, end_column;
  __device__ ProductShare(int rows, int columns)
      : parts(min(static_cast<int>(gridDim.x), min(kDepthParts, tiles_of(columns, kTileColumns)))),
        part(static_cast<int>(blockIdx.x) % parts),
        tiles(tiles_of(rows, kTileRows), gridDim.x / static_cast<unsigned>(parts),
              blockIdx.x / static_cast<unsigned>(parts)),
        first_column(tiles_of(columns, kTileColumns) * part / parts * kTileColumns),
        end_column(min(columns, tiles_of(columns, kTileColumns) * (part + 1) / parts * kTileColumns)) {}
  __device__ bool empty() const { return tiles.begin == tiles.end; }

 private:
  __device__ static int tiles_of(int count, int of_tile) { return (count + of_tile - 1) / of_tile; }
};

/// Divides tiles of attention among as few blocks as do not raise the largest share, so that shares end at
/// the ends of heads where possible. Each of these blocks has a tile: a head's partials come from consecutive
/// blocks without a gap.
__device__ inline void share_tiles(int tiles, AttentionPlan& plan) {
  const unsigned count = max(1u, static_cast<unsigned>(tiles)), share = (count - 1) / gridDim.x + 1;
  plan.blocks = static_cast<int>((count - 1) / share + 1);
  const Share own(tiles, static_cast<unsigned>(plan.blocks));
  plan.begin = own.begin, plan.end = own.end;
}

#endif
}  // namespace perceiver::kernels::cuda
