// The slabs of ProductBlock (hopper_product.cuh) in units of 64 x 64, each a swizzled tile and a part of its
// own: a finishing warp takes every third unit of a block's tiles, whatever tile it belongs to.
#pragma once

#include "kernels/cuda/gemm/hopper_product.cuh"

namespace perceiver::kernels::cuda::hopper {

inline constexpr int kUnits = 2 * kSlabTiles;  // of a tile of the result

/// Its first row and column in the result, and where it is in shared memory.
struct Unit {
  Tile at;
  int slab, tile;
};

__device__ inline Unit unit_of(const Tile& at, int slab, int tile) {
  return {{at.row + slab * kSlabRows, at.column + tile * kTileColumns}, slab, tile};
}

/// Adds what the four lanes have that share 8 columns (lanes 8 apart) of a unit.
__device__ inline void add_rows_of_lanes(float (&sums)[8]) {
#pragma unroll
  for (float& sum : sums) {
    sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 8);
    sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 16);
  }
}

/// A finishing warp's units. To find a tile takes some hundred instructions, so it is done once a tile.
class Units {
 public:
  __device__ Units(const ProductArguments& a, int first) : Units(before_first(a, first)) {
    next_tile();
    phase_ = 0;
  }
  /// Units of no tile, which the first tile follows.
  __device__ static Units before_first(const ProductArguments& a, int first) { return {Tiles(a), first}; }

  __device__ bool done() const { return !has_tile_ && !has_next_; }
  __device__ bool has_tile() const { return has_tile_; }
  __device__ void advance() {
    unit_ += kFinisherWarps;
    if (unit_ < kUnits) return;
    unit_ -= kUnits;
    phase_ ^= 1;
    next_tile();
  }
  __device__ int slab() const { return unit_ / kSlabTiles; }
  __device__ int slab_tile() const { return unit_ % kSlabTiles; }
  __device__ uint32_t phase() const { return phase_; }
  __device__ Unit unit() const { return unit_of(tile_, slab(), slab_tile()); }
  /// Whether the block has another tile, and this unit of it.
  __device__ bool has_next() const { return has_next_; }
  __device__ Unit next() const { return unit_of(next_, slab(), slab_tile()); }

 private:
  __device__ Units(const Tiles& tiles, int first) : ahead_(tiles), unit_(first) { next_tile(); }
  __device__ void next_tile() {
    tile_ = next_;
    has_tile_ = has_next_;
    has_next_ = !ahead_.done();
    if (!has_next_) return;
    next_ = ahead_.tile();
    ahead_.advance();
  }

  Tiles ahead_;
  Tile tile_{}, next_{};
  bool has_tile_ = false, has_next_ = false;
  int unit_;
  uint32_t phase_ = 1;
};

}  // namespace perceiver::kernels::cuda::hopper
