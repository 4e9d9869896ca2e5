// Attention of the fused decode step: one query per slot and head against a ring of keys and values.
//
// All tiles (slot, group of heads, rows) form one list, of which every block takes an equal, contiguous
// share: a split of the keys that depends on the shapes and counts alone. A thread holds 8 channels; head_dim
// / 8 neighbouring threads form a team that works on one row of one head at a time, with an online softmax in
// base 2 of its own; each tile holds two rows for every team. At the end of a slot and group the teams'
// results are merged, by shuffles and where a head has teams in several warps by the first of these, through
// shared memory, and go to the workspace as a partial result. Partial results of a head come from
// neighbouring blocks and are combined in their order.
#pragma once

#include <type_traits>

#include "kernels/cuda/decode/flagged_buffers.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

inline constexpr float kLowest = -1e30f;  // finite, so that the difference of two is 0

/// Floats of a partial result of one head: sums, maximum, denominator.
__device__ inline int partial_stride(const AttentionShape& shape) {
  return shape.head_dim + 4;
}

/// Partial result of (slot, group) by a block: the pairs form a staircase, on which the sum is unique.
__device__ inline float* partial_result(const DecodeArguments& a, const AttentionShape& shape, int slot,
                                        int group, int block) {
  return a.partials +
         static_cast<int64_t>(slot * shape.groups + group + block) * shape.group * partial_stride(shape);
}

/// Likewise of one slot, in the exchange: head_dim + 2 words a head.
__device__ inline uint64_t* partial_words(const DecodeArguments& a, const AttentionShape& shape, int group,
                                          int block) {
  return a.flagged.partials + static_cast<int64_t>(group + block) * shape.group * (shape.head_dim + 2);
}

/// Softmax-weighted sum under way, of 8 channels.
struct AttentionSum {
  float largest = kLowest, denominator = 0;
  float out[8] = {};

  __device__ void scale(float factor) {
    denominator *= factor;
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] *= factor;
  }
  __device__ void add(float weight, const uint4& value) {
    const uint32_t words[4] = {value.x, value.y, value.z, value.w};
    denominator += weight;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = unpack(words[i]);
      out[2 * i] += weight * pair.x;
      out[2 * i + 1] += weight * pair.y;
    }
  }
  /// Over the teams of a warp that share a head: lanes that differ in bits from `begin` below `end`.
  __device__ void merge(int begin, int end) {
    float all = largest;
    for (int offset = begin; offset < end; offset *= 2)
      all = fmaxf(all, __shfl_xor_sync(0xffffffffu, all, offset));
    scale(exp2_fast(largest - all));
    largest = all;
    for (int offset = begin; offset < end; offset *= 2) {
      denominator += __shfl_xor_sync(0xffffffffu, denominator, offset);
#pragma unroll
      for (int i = 0; i < 8; ++i) out[i] += __shfl_xor_sync(0xffffffffu, out[i], offset);
    }
  }
};

/// A sum of partial results: of two channels, which 8 lanes share.
struct PairSum {
  float2 out{0, 0};
  float largest = kLowest, denominator = 0;

  __device__ void add(float2 other, float other_largest, float other_denominator) {
    const float all = fmaxf(largest, other_largest);
    const float mine = exp2_fast(largest - all), its = exp2_fast(other_largest - all);
    out.x = out.x * mine + other.x * its, out.y = out.y * mine + other.y * its;
    denominator = denominator * mine + other_denominator * its;
    largest = all;
  }
  /// Over the lanes that are alike modulo 4.
  __device__ void merge() {
    float all = largest;
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2)
      all = fmaxf(all, __shfl_xor_sync(0xffffffffu, all, offset));
    const float mine = exp2_fast(largest - all);
    out.x *= mine, out.y *= mine, denominator *= mine, largest = all;
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2) {
      out.x += __shfl_xor_sync(0xffffffffu, out.x, offset);
      out.y += __shfl_xor_sync(0xffffffffu, out.y, offset);
      denominator += __shfl_xor_sync(0xffffffffu, denominator, offset);
    }
  }
};

/// Adds up the partial results that the warps of a head left in shared memory, partial_stride floats apart;
/// by one warp. Calls store(pair, channel) with two channels each, and with maximum and denominator as the
/// last channel.
template <typename Store>
__device__ __forceinline__ void merge_parts(const float* parts, int warps, int head_dim, int lane,
                                            Store&& store) {
  const int stride = head_dim + 4;
  float2 of_warp[kConsumerWarps];  // maximum and denominator
  float largest = kLowest;
#pragma unroll
  for (int w = 0; w < kConsumerWarps; ++w) {
    of_warp[w] = {kLowest, 0};
    if (w < warps) of_warp[w] = *reinterpret_cast<const float2*>(parts + w * stride + head_dim);
    largest = fmaxf(largest, of_warp[w].x);
  }
  float factor[kConsumerWarps], denominator = 0;
#pragma unroll
  for (int w = 0; w < kConsumerWarps; ++w) {
    factor[w] = exp2_fast(of_warp[w].x - largest);
    denominator += factor[w] * of_warp[w].y;
  }
  for (int channel = 2 * lane; channel < head_dim; channel += 64) {
    float2 out{0, 0};
#pragma unroll
    for (int w = 0; w < kConsumerWarps; ++w) {
      if (w >= warps) continue;
      const float2 part = *reinterpret_cast<const float2*>(parts + w * stride + channel);
      out.x += factor[w] * part.x, out.y += factor[w] * part.y;
    }
    store(out, channel);
  }
  if (lane == 0) store(float2{largest, denominator}, head_dim);
}

/// Where one kind of attention finds what this step made, and the tags of both and of what it makes itself.
struct FreshInputs {
  const uint64_t* row = nullptr;  // keys, then values
  uint32_t row_tag = 0, query_tag = 0, partial_tag = 0;
};

/// kTagged: by the exchange of one slot; else by way of the workspace. `parts`: two times kPartFloats, used
/// in `turn`.
template <bool kTagged>
class DecodeAttention {
 public:
  __device__ DecodeAttention(const DecodeArguments& a, DecodeShared& shared, uint32_t ring, float* parts,
                             int& turn, const bf16* cache, const AttentionPlan& plan,
                             const FreshInputs& inputs = {})
      : a_(a),
        shared_(shared),
        ring_(ring),
        parts_(parts),
        turn_(turn),
        cache_(cache),
        plan_(plan),
        shape_(plan.shape),
        inputs_(inputs) {
    const int thread = static_cast<int>(threadIdx.x);
    team_lanes_ = shape_.head_dim / 8;
    const int lanes = power_of(team_lanes_), teams = power_of(kConsumers) - lanes - power_of(shape_.group);
    lane_in_team_ = thread & (team_lanes_ - 1);
    teams_per_head_ = 1 << teams;
    head_in_group_ = thread >> lanes >> teams;
    first_row_ = thread >> lanes & (teams_per_head_ - 1);
    channel_ = head_in_group_ * shape_.head_dim + lane_in_team_ * 8;
  }

  /// Takes this block's tiles out of the ring.
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

  static constexpr int kTiles = 2;          // read at once
  static constexpr int kRows = 2 * kTiles;  // of this thread

  __device__ void read(int slot, int group, int tile, int count, RingCursor& cursor) {
    const int column = group * shape_.group * shape_.head_dim + channel_;
    const int fresh = plan_.fresh_row[slot], rows = plan_.rows[slot], begin = tile * shape_.tile_rows;
    const bool has_fresh = fresh >= begin && fresh < begin + count * shape_.tile_rows;
    AttentionSum sum;
    float query[8];
    uint4 key[kRows], value[kRows];
    for (int t = tile; t < tile + count; t += kTiles) {
      const int first = t * shape_.tile_rows, tiles = min(kTiles, tile + count - t);
      take(tiles, key, value, cursor);
      if (t == tile) load_query(slot, column, has_fresh ? fresh - begin : -1, query);
      const int fresh_in_tiles = fresh - first;
      if (fresh_in_tiles >= 0 && fresh_in_tiles < tiles * shape_.tile_rows)
        take_fresh(fresh_in_tiles, slot, column, key, value);
      add(query, min(rows - first, tiles * shape_.tile_rows), key, value, sum);
    }
    finish(slot, group, sum);
  }

  /// This thread's rows, counted from the first tile's first.
  __device__ int row(int i) const { return i / 2 * shape_.tile_rows + first_row_ + i % 2 * teams_per_head_; }

  /// This thread's part of the next tiles.
  __device__ __forceinline__ void take(int tiles, uint4 (&key)[kRows], uint4 (&value)[kRows],
                                       RingCursor& cursor) const {
    const uint32_t pitch = static_cast<uint32_t>(shape_.group * shape_.head_dim) * 4;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      if (t >= tiles) break;
      const uint32_t tile = ring_ + cursor.stage * kStageBytes + static_cast<uint32_t>(channel_) * 2;
      mbarrier_wait(shared_address(&shared_.full[cursor.stage]), cursor.parity);
#pragma unroll
      for (int i = 2 * t; i < 2 * t + 2; ++i) {
        const uint32_t at = tile + static_cast<uint32_t>(first_row_ + i % 2 * teams_per_head_) * pitch;
        key[i] = load_shared(at);
        value[i] = load_shared(at + pitch / 2);
      }
      mbarrier_arrive_warp(shared_address(&shared_.empty[cursor.stage]));
      cursor.advance(a_.stages);
    }
  }

  /// One trip for the query and, for the team whose row `fresh` this step writes, that row's key and value.
  /// Below 0: the row is not among the block's.
  __device__ __forceinline__ void load_query(int slot, int column, int fresh, float (&query)[8]) {
    if constexpr (kTagged) {
      const uint64_t *q = a_.flagged.queries + column, *k = inputs_.row + column / 2,
                     *v = k + shape_.width / 2;
      uint2 words[4];
      if (fresh >= 0 && (fresh & (teams_per_head_ - 1)) == first_row_) {
        const uint64_t* const from[8] = {q, q + 2, q + 4, q + 6, k, k + 2, v, v + 2};
        const uint32_t asked = inputs_.query_tag, written = inputs_.row_tag;
        const uint32_t tags[8] = {asked, asked, asked, asked, written, written, written, written};
        uint2 all[8];
        receive(from, tags, all);
#pragma unroll
        for (int i = 0; i < 4; ++i) words[i] = all[i];
        fresh_key_ = {all[4].x, all[4].y, all[5].x, all[5].y};
        fresh_value_ = {all[6].x, all[6].y, all[7].x, all[7].y};
      } else {
        receive(q, inputs_.query_tag, words);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        query[2 * i] = __uint_as_float(words[i].x);
        query[2 * i + 1] = __uint_as_float(words[i].y);
      }
    } else {
      const float* from = a_.queries + slot * shape_.width + column;
      *reinterpret_cast<float4*>(query) = load_fresh(from);
      *reinterpret_cast<float4*>(query + 4) = load_fresh(from + 4);
    }
  }

  /// The row that this step writes, if it is among this thread's: the ring has it as it was before.
  __device__ __forceinline__ void take_fresh(int fresh, int slot, int column, uint4 (&key)[kRows],
                                             uint4 (&value)[kRows]) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (row(i) != fresh) continue;
      if constexpr (kTagged) {
        key[i] = fresh_key_, value[i] = fresh_value_;
      } else {
        const bf16* from =
            cache_ +
            (static_cast<int64_t>(slot) * shape_.ring_rows + plan_.fresh_row[slot]) * (2 * shape_.width) +
            column;
        key[i] = load_fresh(from);
        value[i] = load_fresh(from + shape_.width);
      }
    }
  }

  /// `rows` of the tiles are valid.
  __device__ __forceinline__ void add(const float (&query)[8], int rows, const uint4 (&key)[kRows],
                                      const uint4 (&value)[kRows], AttentionSum& sum) const {
    float score[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) score[i] = dot(query, key[i]);
    for (int offset = team_lanes_ / 2; offset > 0; offset /= 2) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) score[i] += __shfl_xor_sync(0xffffffffu, score[i], offset);
    }
    const float before = sum.largest;
#pragma unroll
    for (int i = 0; i < kRows; ++i)
      if (row(i) < rows) sum.largest = fmaxf(sum.largest, score[i]);
    sum.scale(exp2_fast(before - sum.largest));
#pragma unroll
    for (int i = 0; i < kRows; ++i)
      if (row(i) < rows) sum.add(exp2_fast(score[i] - sum.largest), value[i]);
  }

  __device__ static float dot(const float (&query)[8], const uint4& key) {
    const uint32_t words[4] = {key.x, key.y, key.z, key.w};
    float even = 0, odd = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = unpack(words[i]);
      even += query[2 * i] * pair.x;
      odd += query[2 * i + 1] * pair.y;
    }
    return even + odd;
  }

  /// Merges the teams of a head and writes the block's partial result.
  __device__ void finish(int slot, int group, AttentionSum& sum) {
    sum.merge(team_lanes_, min(32, team_lanes_ * teams_per_head_));
    if (shape_.warps == 1) {
      if (first_row_ == 0) store_partial(sum, slot, group);
      return;
    }
    float* parts = parts_ + turn_ * kPartFloats;
    turn_ ^= 1;
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    if (lane < team_lanes_) store(sum, parts + warp * partial_stride(shape_));
    consumer_barrier();
    if ((warp & (shape_.warps - 1)) != 0) return;
    merge_parts(parts + warp * partial_stride(shape_), shape_.warps, shape_.head_dim, lane,
                [&](float2 pair, int channel) { store_pair(pair, channel, slot, group); });
  }

  /// Of the partial result of this thread's head: two channels, or maximum and denominator.
  __device__ void store_pair(float2 pair, int channel, int slot, int group) const {
    const int block = static_cast<int>(blockIdx.x);
    if constexpr (kTagged) {
      uint64_t* to = partial_words(a_, shape_, group, block) + head_in_group_ * (shape_.head_dim + 2);
      publish(to + channel, pair.x, pair.y, inputs_.partial_tag);
    } else {
      float* to = partial_result(a_, shape_, slot, group, block) + head_in_group_ * partial_stride(shape_);
      *reinterpret_cast<float2*>(to + channel) = pair;
    }
  }

  __device__ void store_partial(const AttentionSum& sum, int slot, int group) const {
#pragma unroll
    for (int i = 0; i < 8; i += 2)
      store_pair({sum.out[i], sum.out[i + 1]}, lane_in_team_ * 8 + i, slot, group);
    if (lane_in_team_ == 0) store_pair({sum.largest, sum.denominator}, shape_.head_dim, slot, group);
  }

  __device__ void store(const AttentionSum& sum, float* to) const {
    float4* channels = reinterpret_cast<float4*>(to + lane_in_team_ * 8);
    channels[0] = {sum.out[0], sum.out[1], sum.out[2], sum.out[3]};
    channels[1] = {sum.out[4], sum.out[5], sum.out[6], sum.out[7]};
    if (lane_in_team_ == 0) *reinterpret_cast<float2*>(to + shape_.head_dim) = {sum.largest, sum.denominator};
  }

  const DecodeArguments& a_;
  DecodeShared& shared_;
  uint32_t ring_;
  float* parts_;
  int& turn_;
  const bf16* cache_;
  const AttentionPlan& plan_;
  const AttentionShape& shape_;
  FreshInputs inputs_;
  int team_lanes_, lane_in_team_, teams_per_head_, head_in_group_, first_row_, channel_;
  uint4 fresh_key_{}, fresh_value_{};  // of the row that this step writes
};

/// Combines partial results of one head; a lane has N = head_dim / 32 channels. They lie in shared memory or
/// in the workspace.
template <int N, bool kShared>
class PartialSum {
 public:
  /// Every step-th of the `count` results that lie `stride` floats apart from `parts`, beginning with
  /// `first`.
  __device__ void add(const float* parts, int64_t stride, int first, int step, int count) {
    const int mine = first < count ? (count - first + step - 1) / step : 0;
    parts += first * stride;
    stride *= step;
#pragma unroll 1
    for (int block = 0; block < mine; block += 32)
      add_block(parts + block * stride, stride, min(32, mine - block));
  }
  __device__ void write(float* to) const {
#pragma unroll
    for (int i = 0; i < N; ++i) to[lane() * N + i] = out_[i];
    if (lane() == 0) *reinterpret_cast<float2*>(to + 32 * N) = {largest_, denominator_};
  }
  __device__ void write_quotient(bf16* to) const {
    const float inverse = denominator_ > 0 ? __frcp_rn(denominator_) : 0;
#pragma unroll
    for (int i = 0; i < N; ++i) to[lane() * N + i] = __float2bfloat16_rn(out_[i] * inverse);
  }

 private:
  static constexpr int kUnroll = 8;  // results on their way at once
  using Channels = std::conditional_t<N == 1, float, std::conditional_t<N == 2, float2, float4>>;
  __device__ static int lane() {
    return static_cast<int>(threadIdx.x) % 32;
  }

  __device__ void add_block(const float* parts, int64_t stride, int count) {
    float2 own{kLowest, 0};
    if (lane() < count) own = read(reinterpret_cast<const float2*>(parts + lane() * stride + 32 * N));
    alignas(16) float x[kUnroll][N];
    load(parts, stride, count, x);
    const float largest = fmaxf(largest_, warp_max(own.x)), factor = exp2_fast(largest_ - largest);
    const float weight = exp2_fast(own.x - largest);
    denominator_ = denominator_ * factor + warp_sum(weight * own.y);
    largest_ = largest;
#pragma unroll
    for (int i = 0; i < N; ++i) out_[i] *= factor;
#pragma unroll 1
    for (int j = 0; j < count; j += kUnroll) {
      if (j > 0) load(parts + j * stride, stride, count - j, x);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const float w = __shfl_sync(0xffffffffu, weight, j + u);
#pragma unroll
        for (int i = 0; i < N; ++i) out_[i] += w * x[u][i];
      }
    }
  }
  __device__ void load(const float* parts, int64_t stride, int count, float (&x)[kUnroll][N]) const {
    parts += lane() * N;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      Channels& channels = *reinterpret_cast<Channels*>(x[u]);
      channels = Channels{};
      if (u < count) channels = read(reinterpret_cast<const Channels*>(parts + u * stride));
    }
  }
  template <typename Value>
  __device__ static Value read(const Value* from) {
    return kShared ? *from : __ldcg(from);
  }

  float largest_ = kLowest, denominator_ = 0;
  float out_[N] = {};
};

#endif
}  // namespace perceiver::kernels::cuda
