// Masking of scores in wgmma's accumulator layout with queries by rows, for the kernels whose blocks own a
// tile of queries and iterate over tiles of keys.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/hopper/roles.cuh"

namespace perceiver::kernels::cuda::hopper {

/// A tile of 128 queries of one example and head; `first_key` to `key_end` are the keys that any of them
/// sees.
struct QueryTile {
  int example, head, first_query, query_count, first_key, key_end;

  __device__ QueryTile(const Attention& a, int tile, int of_head, int of_example)
      : example(of_example), head(of_head), first_query(tile * 128) {
    query_count = min(128, static_cast<int>(a.queries) - first_query);
    key_end = min(limits(a)[query_count - 1], static_cast<int>(a.keys));
    first_key = a.first == nullptr ? 0 : max(a.first[example], 0);
  }
  __device__ const int32_t* limits(const Attention& a) const {
    return a.limit + example * a.queries + first_query;
  }
  /// Tiles of kKeys keys.
  template <int kKeys>
  __device__ int key_tiles() const {
    return max(key_end - first_key + kKeys - 1, 0) / kKeys;
  }
  /// Index of query `row` of the tile in [batch, heads, queries].
  __device__ int64_t statistic(const Attention& a, int row) const {
    return (static_cast<int64_t>(example) * a.heads + head) * a.queries + first_query + row;
  }
};

/// The two rows of a thread of warp `warp` (0 to 7) of the tile.
template <int kKeys>
class QueryRows {
 public:
  __device__ QueryRows(const Attention& a, const QueryTile& tile, int warp)
      : a_(a), tile_(tile), row_(warp * 16 + lane() / 4) {
    const int32_t* limits = tile.limits(a);
#pragma unroll
    for (int r = 0; r < 2; ++r) limit_[r] = row(r) < tile.query_count ? min(limits[row(r)], tile.key_end) : 0;
    const int group_row = warp / 4 * 64;
    const int smallest = group_row < tile.query_count ? min(limits[group_row], tile.key_end) : 0;
    clear_ = max(smallest - tile.first_key, 0) / kKeys;
  }

  __device__ int row(int r) const {
    return row_ + r * 8;
  }

  /// Whether every query of the warpgroup sees all of key tile `t`; uniform over the warp.
  __device__ bool sees_all(int t) const {
    if (t >= clear_) return false;
    if (a_.key_mask == nullptr) return true;
    const uint8_t* mask = a_.key_mask + tile_.example * a_.keys + tile_.first_key + t * kKeys + lane();
    bool seen = true;
#pragma unroll
    for (int w = 0; w < kKeys / 32; ++w) seen &= mask[w * 32] != 0;
    return __all_sync(0xFFFFFFFFu, seen);
  }

  /// Sets the scores of hidden keys to -infinity.
  __device__ void hide(int t, float (&s)[kKeys / 2]) const {
    const int tile_key = tile_.first_key + t * kKeys;
    uint32_t seen[kKeys / 32];
#pragma unroll
    for (int w = 0; w < kKeys / 32; ++w) {
      const int key = tile_key + w * 32 + lane();
      const bool passes =
          a_.key_mask == nullptr || (key < a_.keys && a_.key_mask[tile_.example * a_.keys + key] != 0);
      seen[w] = __ballot_sync(0xFFFFFFFFu, passes);
    }
    // Relative to this thread's first key, so columns are compared with constants.
    const int thread_key = tile_key + lane() % 4 * 2;
    int limit[2], own[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      limit[r] = limit_[r] - thread_key;
      own[r] = a_.self_visible ? tile_.first_query + row(r) - thread_key : -1;
    }
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
      const uint32_t bits = seen[n / 4] >> (lane() % 4 * 2);
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = n * 8 + e;
        const bool bit = bits & (1u << (column % 32));
#pragma unroll
        for (int r = 0; r < 2; ++r)
          if (column >= limit[r] || !(bit || column == own[r])) s[n * 4 + r * 2 + e] = -INFINITY;
      }
    }
  }

  /// Likewise of the first kColumns keys of a tile, where there is no key mask.
  template <int kColumns>
  __device__ void hide_beyond_limits(int t, float (&s)[kKeys / 2]) const {
    const int thread_key = tile_.first_key + t * kKeys + lane() % 4 * 2;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int limit = limit_[r] - thread_key;
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e)
          if (n * 8 + e >= limit) s[n * 4 + r * 2 + e] = -INFINITY;
    }
  }

 private:
  const Attention& a_;
  const QueryTile& tile_;
  const int row_;
  int clear_;  // tiles below this one are within the limit of every query of the warpgroup
  int limit_[2];
};

}  // namespace perceiver::kernels::cuda::hopper
