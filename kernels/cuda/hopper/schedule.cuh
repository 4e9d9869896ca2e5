// The order in which the persistent blocks of an attention kernel compute the tiles of 128 queries.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/hopper/query_rows.cuh"

namespace perceiver::kernels::cuda::hopper {

/// The tiles of queries that a block computes. With a causal mask later tiles are longer, so the tiles of a
/// section of heads are dealt to the blocks from the last ones of each head on, in an even number of rounds
/// of alternating direction. The places without a tile in a section's last rounds fall to other blocks in the
/// next. A section is small enough for its K and V to remain in the L2 cache.
class Schedule {
 public:
  __device__ Schedule(const Attention& a, int section_heads)
      : a_(a),
        heads_(static_cast<int>(a.heads)),
        all_heads_(heads_ * static_cast<int>(a.batch)),
        head_tiles_(static_cast<int>(a.queries + kQueries - 1) / kQueries),
        section_heads_(section_heads),
        blocks_(static_cast<int>(gridDim.x)),
        place_(static_cast<int>(blockIdx.x)) {
    const int section_tiles = section_heads_ * head_tiles_;
    rounds_ = (section_tiles + 2 * blocks_ - 1) / (2 * blocks_) * 2;
    idle_ = rounds_ * blocks_ - section_tiles;
  }

  /// Goes to the block's next tile, if there is one.
  __device__ bool advance() {
    while (section_ < all_heads_) {
      const int index = round_ * blocks_ + (round_ % 2 == 0 ? place_ : blocks_ - 1 - place_);
      const int heads = min(section_heads_, all_heads_ - section_);
      head_ = section_ + index % heads;
      tile_ = head_tiles_ - 1 - index / heads;
      next_round();
      if (tile_ >= 0) return true;
    }
    return false;
  }
  __device__ QueryTile tile() const { return QueryTile(a_, tile_, head_ % heads_, head_ / heads_); }

 private:
  static constexpr int kQueries = 128;

  __device__ void next_round() {
    if (++round_ < rounds_) return;
    round_ = 0;
    section_ += section_heads_;
    place_ = (place_ + idle_) % blocks_;
  }

  const Attention& a_;
  const int heads_, all_heads_, head_tiles_, section_heads_, blocks_;
  int rounds_, idle_;                    // of a section: rounds, places without a tile
  int place_, section_ = 0, round_ = 0;  // section_: its first head
  int head_ = 0, tile_ = 0;
};

}  // namespace perceiver::kernels::cuda::hopper
