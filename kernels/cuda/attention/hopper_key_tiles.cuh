// What the Hopper kernels of dK and dV (hopper_dkdv.cu, hopper_wide_dkdv.cu) share: the order in which blocks
// take tiles of keys, and the elements of S^T and dP^T of 64 keys and a tile of 64 queries in wgmma's
// accumulator layout with keys by rows.
#pragma once

#include "kernels/cuda/attention/hopper_backward.cuh"

namespace perceiver::kernels::cuda::hopper {

/// A tile of keys of one example and head.
struct KeyItem {
  int example, head;  // head < 0: no more work
  int first_key;
  int first_tile[2];  // the first query tile that sees any key of these 64 keys, or else the last one
};

/// Blocks fetch the next tile from a counter. Called by all lanes of a warp.
class KeyItems {
 public:
  __device__ explicit KeyItems(const BackwardArguments& arguments)
      : args_(arguments), a_(arguments.a.forward) {}

  __device__ int count() const { return args_.key_tiles * static_cast<int>(a_.heads * a_.batch); }

  /// The next item's index, in lane 0. It is fetched ahead of its use.
  __device__ int fetch() const { return lane() == 0 ? atomicAdd(args_.next_item, 1) : 0; }
  __device__ static int broadcast(int x) { return __shfl_sync(0xFFFFFFFFu, x, 0); }

  /// With a causal mask the first key tiles take longest: those of a section of heads come first, so that
  /// short ones are left to even out the blocks' ends. A section's Q and dO remain in the L2 cache.
  template <int kGroups>
  __device__ KeyItem find(int index) const {
    const int heads = static_cast<int>(a_.heads), section_items = args_.section_heads * args_.key_tiles;
    const int first_head = index / section_items * args_.section_heads, place = index % section_items;
    const int section_heads = min(args_.section_heads, heads * static_cast<int>(a_.batch) - first_head);
    const int head = first_head + place % section_heads;
    KeyItem item{head / heads, head % heads, place / section_heads * (kGroups * 64), {}};
    for (int group = 0; group < kGroups; ++group)
      item.first_tile[group] = first_query_tile(item.example, item.first_key + group * 64);
    return item;
  }

 private:
  __device__ int first_query_tile(int example, int first_key) const {
    const int32_t* limits = args_.limits + example * args_.query_tiles * kBackwardQueries;
    for (int from = 0;; from += 32) {
      const int tile = from + lane();
      const int last = min((tile + 1) * kBackwardQueries, static_cast<int>(a_.queries)) - 1;
      const bool sees = tile >= args_.query_tiles || limits[last] > first_key;
      const uint32_t found = __ballot_sync(0xFFFFFFFFu, sees);
      if (found != 0) return min(from + __ffs(static_cast<int>(found)), args_.query_tiles) - 1;
    }
  }

  const BackwardArguments& args_;
  const Attention& a_;
};

/// The two keys of a thread of the 16 of its warp: consumer warp w has those from 16 w on.
class KeyRows {
 public:
  /// Finds which of them exist and pass the key mask.
  __device__ void find(const Attention& a, const KeyItem& item) {
    const int b = item.example, first = a.first == nullptr ? 0 : a.first[b];
    bool all = true;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      key_[r] = item.first_key + consumer_warp() * 16 + r * 8 + lane() / 4;
      exists_[r] = key_[r] >= first && key_[r] < a.keys;
      seen_[r] = exists_[r] && (a.key_mask == nullptr || a.key_mask[b * a.keys + key_[r]] != 0);
      all = all && seen_[r];
    }
    all_seen_ = __all_sync(0xFFFFFFFFu, all);
    warp_end_ = item.first_key + consumer_warp() * 16 + 16;
  }

  /// Whether all keys of the warp exist and pass the mask, and the first key behind them: nothing is hidden
  /// if the first query's limit is not below. (The test in one function, whose result the compiler then
  /// computes without branches, costs dK and dV 3% at D = 128.)
  __device__ bool all_seen() const {
    return all_seen_;
  }
  __device__ int warp_end() const {
    return warp_end_;
  }

  /// Sets the scores of keys that queries of tile `tile` do not see to -infinity.
  __device__ void hide(const Attention& a, const int* limits, int tile, float (&s)[32]) const {
#pragma unroll
    for (int n = 0; n < kBackwardQueries / 8; ++n) {
      const int column = n * 8 + lane() % 4 * 2;
      const int2 limit2 = *reinterpret_cast<const int2*>(limits + column);
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int end = e == 0 ? limit2.x : limit2.y;
        const int own = a.self_visible ? tile * kBackwardQueries + column + e : -1;
#pragma unroll
        for (int r = 0; r < 2; ++r)
          if (key_[r] >= end || !(seen_[r] || (exists_[r] && own == key_[r])))
            s[n * 4 + r * 2 + e] = -INFINITY;
      }
    }
  }

 private:
  int key_[2], warp_end_;
  bool exists_[2], seen_[2], all_seen_;
};

/// P^T from S^T; LSE in base 2.
__device__ inline void probabilities(const float* lse, float scale_log2, float (&s)[32]) {
  const float* own = lse + lane() % 4 * 2;
#pragma unroll
  for (int n = 0; n < kBackwardQueries / 8; ++n) {
    const float2 x = *reinterpret_cast<const float2*>(own + n * 8);
#pragma unroll
    for (int e = 0; e < 4; ++e)
      s[n * 4 + e] = exp2_fast(fmaf(s[n * 4 + e], scale_log2, e % 2 == 0 ? -x.x : -x.y));
  }
}

/// dS^T = P^T (dP^T - delta), in place of dP^T.
__device__ inline void score_gradients(const float* delta, const float (&p)[32], float (&d_p)[32]) {
  const float* own = delta + lane() % 4 * 2;
#pragma unroll
  for (int n = 0; n < kBackwardQueries / 8; ++n) {
    const float2 x = *reinterpret_cast<const float2*>(own + n * 8);
#pragma unroll
    for (int e = 0; e < 4; ++e) d_p[n * 4 + e] = p[n * 4 + e] * (d_p[n * 4 + e] - (e % 2 == 0 ? x.x : x.y));
  }
}

/// The same from rounded P^T; dS^T is rounded too.
__device__ inline void score_gradients(const float* delta, const uint32_t (&p)[16], const float (&d_p)[32],
                                       uint32_t (&d_s)[16]) {
  const float* own = delta + lane() % 4 * 2;
#pragma unroll
  for (int n = 0; n < kBackwardQueries / 8; ++n) {
    const float2 x = *reinterpret_cast<const float2*>(own + n * 8);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float2 pair = unpack(p[n * 2 + r]);
      d_s[n * 2 + r] = pack(pair.x * (d_p[n * 4 + r * 2] - x.x), pair.y * (d_p[n * 4 + r * 2 + 1] - x.y));
    }
  }
}

}  // namespace perceiver::kernels::cuda::hopper
