// Combines split-KV partials that come through flagged buffers, 8 channels of a head ("piece") at a time: by
// one warp, or by several where a head has many partials.
#pragma once

#include "kernels/cuda/decode/flagged_buffers.cuh"
#include "kernels/cuda/decode/partials.cuh"
#include "kernels/cuda/decode/work_split.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

/// Where the partials of a piece are. Pieces are counted over the channels of all slots.
template <bool kOneSlot>
__device__ inline HeadPiece find_piece(const DecodeArguments& a, const AttentionPlan& plan, int piece) {
  const AttentionShape& shape = plan.shape;
  const int of_slot = shape.width / 8, slot = kOneSlot ? 0 : piece / of_slot;
  if (!kOneSlot) piece -= slot * of_slot;
  const int head = piece * 8 / shape.head_dim, group = head / shape.group, within = head % shape.group;
  const int before = kOneSlot ? 0 : plan.tiles_before[slot], tiles = plan.tiles_before[slot + 1] - before;
  const int total = plan.tiles_before[kOneSlot ? 1 : a.slots] * shape.groups;
  if (tiles == 0) return {nullptr, 0, 0};
  const unsigned blocks = static_cast<unsigned>(plan.blocks);
  const int begin = before * shape.groups + group * tiles;
  const int first = Share::owner(begin, total, blocks), last = Share::owner(begin + tiles - 1, total, blocks);
  return {partial_words(a, shape, slot * shape.groups + group, first) + within * (shape.head_dim + 2),
          piece * 8 % shape.head_dim, last - first + 1};
}

/// Receives the partials first + lane / 4, + step, ..., in batches of kBatch, and sums them; lanes that are
/// equal modulo 4 get the sum of the same two channels.
template <int kBatch>
__device__ __forceinline__ PairSum combine_piece(const AttentionShape& shape, const HeadPiece& piece,
                                                 int lane, int first, int step, uint32_t flag) {
  const int stride = shape.group * (shape.head_dim + 2);
  PairSum sum;
#pragma unroll 1
  for (int i = first + lane / 4; i < piece.count; i += kBatch * step) {
    const uint64_t* places[2 * kBatch];
    uint2 words[2 * kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int part = i + b * step < piece.count ? i + b * step : i;
      const uint64_t* from = piece.words + static_cast<int64_t>(part) * stride;
      places[2 * b] = from + piece.channel + lane % 4 * 2, places[2 * b + 1] = from + shape.head_dim;
    }
    receive(places, flag, words);
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (i + b * step >= piece.count) break;
      const float2 weight = floats(words[2 * b + 1]);
      sum.add(floats(words[2 * b]), weight.x, weight.y);
    }
  }
  __syncwarp();
  sum.merge();
  return sum;
}

/// Sums over groups of `warps` neighbouring warps, for the first of each. `parts`: kMergeQuadruples, not
/// those of the call before, since the other warps go on.
__device__ __forceinline__ PairSum merge_warps(const PairSum& sum, float4* parts, int warp, int lane,
                                               int warps) {
  if (lane < 4) parts[warp * 4 + lane] = {sum.out.x, sum.out.y, sum.largest, sum.denominator};
  consumer_barrier();
  if (warp % warps > 0) return sum;
  PairSum all;
  if (lane < 4 * warps) {
    const float4 part = parts[warp * 4 + lane];
    all = PairSum{{part.x, part.y}, part.z, part.w};
  }
  all.merge();
  return all;
}

/// The two channels of a lane, as bf16; 0 without partials.
__device__ inline uint32_t quotient(const PairSum& sum) {
  const float inverse = sum.denominator > 0 ? __frcp_rn(sum.denominator) : 0;
  return pack(sum.out.x * inverse, sum.out.y * inverse);
}

#endif
}  // namespace perceiver::kernels::cuda
