// Attention of the fused decode step: one query per slot and head against a ring of keys and values.
//
// All tiles (slot, group of heads, rows) form one list, of which every block takes an equal, contiguous
// share: a split of the keys that depends on the shapes and counts alone. A thread holds 8 channels; head_dim
// / 8 neighbouring threads form a team that works on one row of one head at a time, with an online softmax in
// base 2 of its own; each tile holds two rows for every team. At the end of a slot and group the teams'
// results are merged, by shuffles and where a head has teams in several warps through shared memory, and go
// to the workspace as a partial result. Partial results of a head come from neighbouring blocks and are
// combined in their order.
#pragma once

#include <type_traits>

#include "kernels/cuda/decode_parts.cuh"

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

class DecodeAttention {
 public:
  __device__ DecodeAttention(const DecodeArguments& a, DecodeShared& shared, uint32_t ring, float* sums,
                             const bf16* cache, const AttentionPlan& plan)
      : a_(a), shared_(shared), ring_(ring), sums_(sums), cache_(cache), plan_(plan), shape_(plan.shape) {
    const int thread = static_cast<int>(threadIdx.x);
    team_lanes_ = shape_.head_dim / 8;
    lane_in_team_ = thread % team_lanes_;
    teams_per_head_ = kConsumers / team_lanes_ / shape_.group;
    head_in_group_ = thread / team_lanes_ / teams_per_head_;
    first_row_ = thread / team_lanes_ % teams_per_head_;
    channel_ = head_in_group_ * shape_.head_dim + lane_in_team_ * 8;
  }

  /// Takes this block's tiles out of the ring.
  __device__ __forceinline__ void run(RingCursor& cursor) {
    const int* before = plan_.tiles_before;
    const int groups = shape_.groups;
    const int total = before[a_.slots] * groups;
    const Share share(total, attention_blocks(total));
    int slot = 0;
    for (int i = share.begin; i < share.end;) {
      while (i >= before[slot + 1] * groups) ++slot;
      const int tiles = before[slot + 1] - before[slot], within = i - before[slot] * groups;
      const int group = within / tiles, tile = within % tiles;
      const int count = min(share.end - i, tiles - tile);
      read(slot, group, tile, count, cursor);
      i += count;
    }
  }

 private:
  __device__ void read(int slot, int group, int tile, int count, RingCursor& cursor) {
    const int column = group * shape_.group * shape_.head_dim + channel_, width = shape_.width;
    float query[8];
    *reinterpret_cast<float4*>(query) = load_fresh(a_.queries + slot * width + column);
    *reinterpret_cast<float4*>(query + 4) = load_fresh(a_.queries + slot * width + column + 4);
    const int fresh = plan_.fresh_row[slot], rows = plan_.rows[slot];
    const bf16* fresh_key =
        cache_ + (static_cast<int64_t>(slot) * shape_.ring_rows + fresh) * (2 * width) + column;
    fresh_key_ = load_fresh(fresh_key);
    fresh_value_ = load_fresh(fresh_key + width);
    AttentionSum sum;
    for (int t = tile; t < tile + count; ++t) {
      const int first = t * shape_.tile_rows;
      add_tile(query, rows - first, fresh - first, sum, cursor);
    }
    finish(slot, group, sum);
  }

  /// Rows are counted from the tile's first.
  __device__ void add_tile(const float (&query)[8], int rows, int fresh, AttentionSum& sum,
                           RingCursor& cursor) {
    const uint32_t pitch = static_cast<uint32_t>(shape_.group * shape_.head_dim) * 4;
    const uint32_t tile = ring_ + cursor.stage * kStageBytes + static_cast<uint32_t>(channel_) * 2;
    barrier_wait(shared_address(&shared_.full[cursor.stage]), cursor.parity);
    uint4 key[2], value[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t at = tile + static_cast<uint32_t>(first_row_ + i * teams_per_head_) * pitch;
      key[i] = load_shared(at);
      value[i] = load_shared(at + pitch / 2);
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(shared_address(&shared_.empty[cursor.stage]));
    cursor.advance(a_.stages);
    float score[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = first_row_ + i * teams_per_head_;
      if (row == fresh) key[i] = fresh_key_, value[i] = fresh_value_;
      score[i] = dot(query, key[i]);
    }
    for (int offset = team_lanes_ / 2; offset > 0; offset /= 2) {
#pragma unroll
      for (int i = 0; i < 2; ++i) score[i] += __shfl_xor_sync(0xffffffffu, score[i], offset);
    }
    const bool seen[2] = {first_row_ < rows, first_row_ + teams_per_head_ < rows};
    const float before = sum.largest;
    if (seen[0]) sum.largest = fmaxf(sum.largest, score[0]);
    if (seen[1]) sum.largest = fmaxf(sum.largest, score[1]);
    sum.scale(exp2_fast(before - sum.largest));
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (seen[i]) sum.add(exp2_fast(score[i] - sum.largest), value[i]);
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
    float* out = partial_result(a_, shape_, slot, group, static_cast<int>(blockIdx.x));
    sum.merge(team_lanes_, min(32, team_lanes_ * teams_per_head_));
    const int warps = team_lanes_ * teams_per_head_ / 32;  // of a head
    if (warps <= 1) {
      if (first_row_ == 0) store(sum, out + head_in_group_ * partial_stride(shape_));
      return;
    }
    const int warp = static_cast<int>(threadIdx.x) / 32, stride = partial_stride(shape_);
    if (static_cast<int>(threadIdx.x) % 32 < team_lanes_) store(sum, sums_ + warp * stride);
    consumer_barrier();
    for (int i = static_cast<int>(threadIdx.x); i < shape_.group * shape_.head_dim; i += kConsumers) {
      const int head = i / shape_.head_dim, channel = i % shape_.head_dim;
      merge_warps(sums_ + head * warps * stride, warps, channel, out + head * stride);
    }
    consumer_barrier();
  }

  __device__ void store(const AttentionSum& sum, float* to) const {
    float4* channels = reinterpret_cast<float4*>(to + lane_in_team_ * 8);
    channels[0] = {sum.out[0], sum.out[1], sum.out[2], sum.out[3]};
    channels[1] = {sum.out[4], sum.out[5], sum.out[6], sum.out[7]};
    if (lane_in_team_ == 0) *reinterpret_cast<float2*>(to + shape_.head_dim) = {sum.largest, sum.denominator};
  }

  __device__ void merge_warps(const float* parts, int warps, int channel, float* to) const {
    const int stride = partial_stride(shape_), d = shape_.head_dim;
    float largest = kLowest, denominator = 0, out = 0;
    for (int w = 0; w < warps; ++w) largest = fmaxf(largest, parts[w * stride + d]);
    for (int w = 0; w < warps; ++w) {
      const float factor = exp2_fast(parts[w * stride + d] - largest);
      denominator += factor * parts[w * stride + d + 1];
      out += factor * parts[w * stride + channel];
    }
    to[channel] = out;
    if (channel == 0) *reinterpret_cast<float2*>(to + d) = {largest, denominator};
  }

  const DecodeArguments& a_;
  DecodeShared& shared_;
  uint32_t ring_;
  float* sums_;
  const bf16* cache_;
  const AttentionPlan& plan_;
  const AttentionShape& shape_;
  int team_lanes_, lane_in_team_, teams_per_head_, head_in_group_, first_row_, channel_;
  uint4 fresh_key_, fresh_value_;
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
