// Attention of the fused decode step: one query per slot and head over a KV cache.
//
// All tiles (slot, group of heads, rows) form one list, of which every block takes an equal, contiguous
// share: a split of the keys that depends on the shapes and counts alone. A thread holds 16 bytes of a key
// and of a value (cache_part.cuh); as many neighbouring threads as a head has such parts form a team that
// works on one row of one head at a time, with its own online softmax in base 2; each tile holds two rows for
// every team. At the end of a slot and group the teams' results are merged, by shuffles within a warp, and
// where a head has teams in several warps through shared memory by the first of these, and written out as the
// block's split-KV partial. The partials of a head come from neighbouring blocks and are combined in their
// order.
#pragma once

#include <cstddef>

#include "kernels/cuda/decode/cache_part.cuh"
#include "kernels/cuda/decode/flagged_buffers.cuh"
#include "kernels/cuda/decode/loads.cuh"
#include "kernels/cuda/decode/partials.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

/// Where attention finds this step's new rows, FlaggedBuffers::stride words from slot to slot, and the flags
/// of its inputs and outputs.
struct FlaggedInputs {
  const uint64_t* row = nullptr;  // keys, then values
  uint32_t row_flag = 0, query_flag = 0, partial_flag = 0;
};

/// kFlagged: the number of slots, if their queries and new rows come through flagged buffers; 0 if through
/// the workspace's plain arrays. kFlaggedPartials: likewise partials. `parts`: two buffers of
/// kWarpPartialFloats, used alternately (`buffer`). kEarly: the next rows are on their way from shared memory
/// while those before are added, by which 64 slots gain 3% and 8 slots lose 1%.
template <DType kCache, int kFlagged, bool kFlaggedPartials, bool kEarly>
class DecodeAttention {
 public:
  __device__ DecodeAttention(const DecodeArguments& a, DecodeShared& shared, uint32_t ring, float* parts,
                             int& buffer, const void* cache, const AttentionPlan& plan,
                             const FlaggedInputs& inputs = {})
      : a_(a),
        shared_(shared),
        ring_(ring),
        warp_partials_(parts),
        buffer_(buffer),
        cache_(static_cast<const char*>(cache)),
        plan_(plan),
        shape_(plan.shape),
        inputs_(inputs) {
    const int thread = static_cast<int>(threadIdx.x);
    team_lanes_ = shape_.head_dim / kChannels;
    const int lanes = power_of(team_lanes_), teams = power_of(kConsumers) - lanes - power_of(shape_.group);
    lane_in_team_ = thread & (team_lanes_ - 1);
    teams_per_head_ = 1 << teams;
    head_in_group_ = thread >> lanes >> teams;
    first_row_ = thread >> lanes & (teams_per_head_ - 1);
    channel_ = head_in_group_ * shape_.head_dim + lane_in_team_ * kChannels;
  }

  /// Consumes this block's tiles from the ring.
  __device__ __forceinline__ void run(RingCursor& cursor) {
    const int* before = plan_.tiles_before;
    const int groups = shape_.groups;
    int slot = 0;
    for (int i = plan_.begin; i < plan_.end;) {
      while (i >= before[slot + 1] * groups) ++slot;
      const int tiles = before[slot + 1] - before[slot], within = i - before[slot] * groups;
      const int group = within / tiles, tile = within % tiles;
      const int count = min(plan_.end - i, tiles - tile);
      read(slot, group, tile, count, cursor);
      i += count;
    }
  }

 private:
  __device__ static int power_of(int x) { return 31 - __clz(x); }

  static constexpr int kChannels = kPartChannels<kCache>;  // of this thread
  static constexpr int kBytes = kPartBytes / kChannels;    // of one
  static constexpr int kTiles = 2;                         // read together
  static constexpr int kRows = 2 * kTiles;                 // of this thread
  using Query = QueryPart<kCache>;
  using Sum = AttentionSum<kCache>;

  __device__ void read(int slot, int group, int tile, int count, RingCursor& cursor) {
    const int column = group * shape_.group * shape_.head_dim + channel_;
    const int new_row = plan_.new_row[slot], rows = plan_.rows[slot], begin = tile * shape_.tile_rows;
    const bool has_new_row = new_row >= begin && new_row < begin + count * shape_.tile_rows;
    Sum sum;
    Query query;
    uint4 key[kRows], value[kRows];
    load_tiles(min(kTiles, count), key, value, cursor);
    load_query(slot, column, has_new_row ? new_row - begin : -1, query);
#pragma unroll 1
    for (int t = tile;; t += kTiles) {
      const int first = t * shape_.tile_rows, left = tile + count - t;
      uint4 next_key[kRows], next_value[kRows];
      if (kEarly) load_tiles(min(kTiles, left - kTiles), next_key, next_value, cursor);
      const int new_row_in_tiles = new_row - first;
      if (new_row_in_tiles >= 0 && new_row_in_tiles < min(kTiles, left) * shape_.tile_rows)
        insert_new_row(new_row_in_tiles, slot, column, key, value);
      add(query, min(rows - first, min(kTiles, left) * shape_.tile_rows), key, value, sum);
      if (left <= kTiles) break;
      if (!kEarly) load_tiles(min(kTiles, left - kTiles), next_key, next_value, cursor);
#pragma unroll
      for (int i = 0; i < kRows; ++i) key[i] = next_key[i], value[i] = next_value[i];
    }
    merge_and_store(slot, group, sum);
  }

  /// This thread's row i, counted from the first tile's first row.
  __device__ int row(int i) const {
    return i / 2 * shape_.tile_rows + first_row_ + i % 2 * teams_per_head_;
  }

  /// This thread's part of the next `tiles`, which may be none. Where there is no tile it reads the
  /// plan, since registers that are set under a condition would be kept for all phases.
  __device__ __forceinline__ void load_tiles(int tiles, uint4 (&key)[kRows], uint4 (&value)[kRows],
                                             RingCursor& cursor) const {
    static_assert(offsetof(DecodeShared, cross) % sizeof(uint4) == 0);
    const uint32_t pitch = static_cast<uint32_t>(shape_.group * shape_.head_dim) * 2 * kBytes;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const bool exists = t < tiles;
      const uint32_t tile = ring_ + cursor.stage * kStageBytes + static_cast<uint32_t>(channel_) * kBytes;
      if (exists) mbarrier_wait(shared_address(&shared_.full[cursor.stage]), cursor.parity);
#pragma unroll
      for (int i = 2 * t; i < 2 * t + 2; ++i) {
        const uint32_t row = static_cast<uint32_t>(first_row_ + i % 2 * teams_per_head_);
        const uint32_t at = exists ? tile + row * pitch : shared_address(&shared_.cross);
        key[i] = load_shared(at);
        value[i] = load_shared(exists ? at + pitch / 2 : at);
      }
      if (!exists) continue;
      mbarrier_arrive_warp(shared_address(&shared_.empty[cursor.stage]));
      cursor.advance(a_.stages);
    }
  }

  /// One round trip for the query and, in the team that has row `new_row`, for its key and value, which this
  /// step makes. Negative: the row is not among the block's.
  __device__ __forceinline__ void load_query(int slot, int column, int new_row, Query& query) {
#pragma unroll
    for (int half = 0; half < kChannels / 8; ++half) {
      float2 pairs[4];
      if constexpr (kFlagged > 0) {
        receive_query(slot, column + 8 * half, half, new_row, pairs);
      } else {
        const float* from = a_.queries + slot * shape_.width + column + 8 * half;
        const float4 low = load_l2(from), high = load_l2(from + 4);
        pairs[0] = {low.x, low.y}, pairs[1] = {low.z, low.w};
        pairs[2] = {high.x, high.y}, pairs[3] = {high.z, high.w};
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) query.set(8 * half + 2 * i, pairs[i]);
    }
  }

  /// 8 channels from `column` on.
  __device__ __forceinline__ void receive_query(int slot, int column, int half, int new_row,
                                                float2 (&pairs)[4]) {
    const int before = kFlagged > 1 ? slot * a_.flagged.stride : 0;
    const uint64_t *q = a_.flagged.queries + before + column, *k = inputs_.row + before + column / 2,
                   *v = k + shape_.width / 2;
    uint2 words[4];
    if (new_row >= 0 && (new_row & (teams_per_head_ - 1)) == first_row_) {
      const uint64_t* const from[8] = {q, q + 2, q + 4, q + 6, k, k + 2, v, v + 2};
      const uint32_t asked = inputs_.query_flag, written = inputs_.row_flag;
      const uint32_t flags[8] = {asked, asked, asked, asked, written, written, written, written};
      uint2 all[8];
      receive(from, flags, all);
#pragma unroll
      for (int i = 0; i < 4; ++i) words[i] = all[i];
      set_new_part<kCache>(new_key_, half, all[4], all[5]);
      set_new_part<kCache>(new_value_, half, all[6], all[7]);
    } else {
      receive(q, inputs_.query_flag, words);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = floats(words[i]);
  }

  /// Replaces the row that this step writes, if it is among this thread's: the ring holds its old contents.
  __device__ __forceinline__ void insert_new_row(int new_row, int slot, int column, uint4 (&key)[kRows],
                                                 uint4 (&value)[kRows]) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (row(i) != new_row) continue;
      if constexpr (kFlagged > 0) {
        key[i] = new_key_, value[i] = new_value_;
      } else {
        const int64_t row = static_cast<int64_t>(slot) * shape_.ring_rows + plan_.new_row[slot];
        const char* from = cache_ + row * shape_.row_bytes + column * kBytes;
        key[i] = load_l2(from);
        value[i] = load_l2(from + shape_.row_bytes / 2);
      }
    }
  }

  /// `rows` of the tiles are valid.
  __device__ __forceinline__ void add(const Query& query, int rows, const uint4 (&key)[kRows],
                                      const uint4 (&value)[kRows], Sum& sum) const {
    float score[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) score[i] = query.dot(key[i]);
    for (int offset = team_lanes_ / 2; offset > 0; offset /= 2) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) score[i] += __shfl_xor_sync(0xffffffffu, score[i], offset);
    }
    const float before = sum.largest;
#pragma unroll
    for (int i = 0; i < kRows; ++i)
      if (row(i) < rows) sum.largest = fmaxf(sum.largest, score[i]);
    sum.scale(exp2_fast(before - sum.largest));
    sum.add(
        value, [&](int i) { return row(i) < rows; },
        [&](int i) { return exp2_fast(score[i] - sum.largest); });
  }

  /// Merges the teams of a head and writes the block's partial.
  __device__ void merge_and_store(int slot, int group, Sum& sum) {
    sum.merge(team_lanes_, min(32, team_lanes_ * teams_per_head_));
    if (shape_.warps == 1) {
      if (first_row_ == 0) store_partial(sum, slot, group);
      return;
    }
    float* parts = warp_partials_;
    if (shape_.head_dim <= kBufferedHeadWidth) {
      parts += buffer_ * kWarpPartialFloats;
      buffer_ ^= 1;
    } else {
      consumer_barrier();  // Both buffers are one: what it had has been read.
    }
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    if (lane < team_lanes_) store(sum, parts + warp * partial_stride(shape_));
    consumer_barrier();
    if ((warp & (shape_.warps - 1)) != 0) return;
    merge_warp_partials(parts + warp * partial_stride(shape_), shape_.warps, shape_.head_dim, lane,
                        [&](float2 pair, int channel) { store_pair(pair, channel, slot, group); });
  }

  /// Two channels, or maximum and denominator, of the partial of this thread's head.
  __device__ void store_pair(float2 pair, int channel, int slot, int group) const {
    const int block = static_cast<int>(blockIdx.x);
    if constexpr (kFlaggedPartials) {
      uint64_t* to = partial_words(a_, shape_, kFlagged == 1 ? group : slot * shape_.groups + group, block) +
                     head_in_group_ * partial_words_stride(shape_);
      publish(to + channel, pair.x, pair.y, inputs_.partial_flag);
    } else {
      float* to = partial_result(a_, shape_, slot, group, block) + head_in_group_ * partial_stride(shape_);
      *reinterpret_cast<float2*>(to + channel) = pair;
    }
  }

  __device__ void store_partial(const Sum& sum, int slot, int group) const {
#pragma unroll
    for (int i = 0; i < kChannels; i += 2)
      store_pair({sum.out[i], sum.out[i + 1]}, lane_in_team_ * kChannels + i, slot, group);
    if (lane_in_team_ == 0) store_pair({sum.largest, sum.denominator}, shape_.head_dim, slot, group);
  }

  __device__ void store(const Sum& sum, float* to) const {
    float4* channels = reinterpret_cast<float4*>(to + lane_in_team_ * kChannels);
#pragma unroll
    for (int i = 0; i < kChannels / 4; ++i)
      channels[i] = {sum.out[4 * i], sum.out[4 * i + 1], sum.out[4 * i + 2], sum.out[4 * i + 3]};
    if (lane_in_team_ == 0) *reinterpret_cast<float2*>(to + shape_.head_dim) = {sum.largest, sum.denominator};
  }

  const DecodeArguments& a_;
  DecodeShared& shared_;
  uint32_t ring_;
  float* warp_partials_;
  int& buffer_;
  const char* cache_;
  const AttentionPlan& plan_;
  const AttentionShape& shape_;
  FlaggedInputs inputs_;
  int team_lanes_, lane_in_team_, teams_per_head_, head_in_group_, first_row_, channel_;
  uint4 new_key_{}, new_value_{};  // of the row that this step writes
};

#endif
}  // namespace perceiver::kernels::cuda
