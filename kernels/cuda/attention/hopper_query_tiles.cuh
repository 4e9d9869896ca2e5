// What the Hopper kernels of dQ (hopper_dq.cu, hopper_wide_dq.cu) share, besides the order of tiles of
// queries (schedule.cuh) and their masks (query_rows.cuh).
#pragma once

#include "kernels/cuda/attention/hopper_backward.cuh"
#include "kernels/cuda/hopper/query_rows.cuh"

namespace perceiver::kernels::cuda::hopper {

/// What the producer tells the consumers of a tile of queries.
struct DqWork {
  QueryTile tile;
  int key_tiles;       // at least 1, which is hidden where the queries see nothing; 0: no more work
  int group_tiles[2];  // of these, the first ones that a query of this warpgroup sees; at least 1
};

/// For tiles of kKeys keys.
template <int kKeys>
__device__ inline void describe_queries(const Attention& a, const QueryTile& tile, int key_tiles,
                                        DqWork& work) {
  work.tile = tile;
  work.key_tiles = key_tiles;
  const int32_t* limits = tile.limits(a);
  for (int group = 0; group < 2; ++group) {
    const int last = min(tile.query_count, group * 64 + 64) - 1;
    const int keys = min(limits[last], tile.key_end) - tile.first_key;
    work.group_tiles[group] = max(keys + kKeys - 1, kKeys) / kKeys;
  }
}

}  // namespace perceiver::kernels::cuda::hopper
