// Attention of the fused decode step for up to 4 slots, on the tensor cores, where a tile is 64 rows of one
// head of 64 channels, of bf16 or e4m3 (head_fragments.cuh). What counts is the latency from the query's
// arrival to the partial, for a few hundred rows: in plain code (attention.cuh) that is some 600
// instructions, here 150.
//
// A warp takes 16 rows of every two tiles. Scores: the keys are the rows of A, the query fills the columns of
// B, even ones with its upper 16 bits, odd ones with the remainder, for some 16 bits of mantissa in all.
// Output: the softmax weights are rows 0 (upper bits) and 8 (remainder) of A, the values are B. The warp that
// holds the row that this step writes receives it with the query and first puts it into the tile.
//
// A tile is two TMA boxes, 64 rows each of keys and of values.
#pragma once

#include "kernels/cuda/decode/attention.cuh"
#include "kernels/cuda/decode/head_fragments.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

template <DType kCache, int kSlots>
class DecodeHeadAttention {
  using Part = HeadPart<kCache>;

 public:
  /// `own`: this warp's 256 bytes of shared memory.
  __device__ DecodeHeadAttention(const DecodeArguments& a, DecodeShared& shared, uint32_t ring,
                                 unsigned char* own, float* parts, int& buffer, const AttentionPlan& plan,
                                 const FlaggedInputs& inputs)
      : a_(a),
        shared_(shared),
        ring_(ring),
        own_(reinterpret_cast<float2*>(own)),
        warp_partials_(parts),
        buffer_(buffer),
        plan_(plan),
        inputs_(inputs),
        warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32) {}

  /// Consumes this block's tiles from the ring.
  __device__ __forceinline__ void run(RingCursor& cursor) {
    const int *before = plan_.tiles_before, heads = plan_.shape.heads;
    int slot = 0;
#pragma unroll 1
    for (int i = plan_.begin; i < plan_.end;) {
      while (kSlots > 1 && i >= before[slot + 1] * heads) ++slot;
      const int first = kSlots > 1 ? before[slot] : 0, tiles = before[slot + 1] - first;  // of a head
      const int within = i - first * heads, head = within / tiles, tile = within - head * tiles;
      const int count = min(plan_.end - i, tiles - tile);
      read(slot, head, tile, count, cursor);
      i += count;
    }
  }

 private:
  struct Sum {
    float largest = kLowestScore, denominator = 0;  // of this lane's rows: lane / 4 and lane / 4 + 8
    float out[8][4] = {};
  };

  __device__ __forceinline__ void read(int slot, int head, int tile, int count, RingCursor& cursor) {
    const int begin = tile * kHeadTileRows + warp_ / 4 * kHeadTileRows + warp_ % 4 * kHeadRows;
    // The new row, counted from this warp's first row; whether this warp will have it.
    const int new_row = plan_.new_row[slot] - begin, stride = kHeadTiles * kHeadTileRows;
    const bool has_new_row =
        new_row >= 0 && new_row % stride < kHeadRows && plan_.new_row[slot] < (tile + count) * kHeadTileRows;
    uint32_t query[4][2];
    uint4 new_chunk{0, 0, 0, 0};
    receive_query(slot, head, has_new_row, query, new_chunk);
    Sum sum;
#pragma unroll 1
    for (int t = 0; t < count; t += kHeadTiles) {
      const int tiles = min(kHeadTiles, count - t);
      const int rows = min(plan_.rows[slot] - begin - t * kHeadTileRows, kHeadRows);
      const uint32_t place = wait_for_tiles(tiles, cursor);
      const bool mine = warp_ / 4 < tiles && rows > 0;
      if (mine) {
        if (has_new_row && new_row / stride == t / kHeadTiles)
          write_new_row(place, new_row % stride, new_chunk);
        add(query, rows, Part::load(place, lane_, rows), sum);
      }
      release(tiles, cursor);
    }
    merge_and_publish(slot * plan_.shape.heads + head, sum);
  }

  /// Returns the address of this warp's 16 rows.
  __device__ __forceinline__ uint32_t wait_for_tiles(int tiles, const RingCursor& cursor) const {
    RingCursor at = cursor;
    uint32_t place = 0;
#pragma unroll
    for (int t = 0; t < kHeadTiles; ++t) {
      if (t >= tiles) break;
      mbarrier_wait(shared_address(&shared_.full[at.stage]), at.parity);
      if (t == warp_ / 4)
        place =
            ring_ + static_cast<uint32_t>(at.stage * kStageBytes + warp_ % 4 * kHeadRows * Part::kRowBytes);
      at.advance(a_.stages);
    }
    return place;
  }
  __device__ __forceinline__ void release(int tiles, RingCursor& cursor) const {
#pragma unroll
    for (int t = 0; t < kHeadTiles; ++t) {
      if (t >= tiles) break;
      mbarrier_arrive_warp(shared_address(&shared_.empty[cursor.stage]));
      cursor.advance(a_.stages);
    }
  }

  /// The query as B, and for lanes 0 to 7 and 8 to 15 a chunk of the new key and value, all in one round
  /// trip. The query goes through shared memory, so that a warp polls it with one access.
  __device__ __forceinline__ void receive_query(int slot, int head, bool with_new_row,
                                                uint32_t (&query)[4][2], uint4& new_row) const {
    const int before = kSlots > 1 ? slot * a_.flagged.stride : 0;
    const uint64_t* q = a_.flagged.queries + before + head * kHeadWidth + lane_ * 2;
    if (with_new_row) {
      const uint64_t* row = inputs_.row + before + (head * kHeadWidth + lane_ % 8 * 8) / 2 +
                            (lane_ / 8 % 2 != 0 ? plan_.shape.width / 2 : 0);
      const uint64_t* const places[3] = {q, row, row + 2};
      uint2 words[3];
      receive(places, inputs_.query_flag, words);
      own_[lane_] = floats(words[0]);
      new_row = {words[1].x, words[1].y, words[2].x, words[2].y};
    } else {
      uint2 words[1];
      receive(q, inputs_.query_flag, words);
      own_[lane_] = floats(words[0]);
    }
    __syncwarp();
    const bool rest = lane_ / 4 % 2 != 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const auto [upper, remainder] = Part::split(own_[Part::query_pair(i, lane_)]);
      query[i / 2][i % 2] = rest ? remainder : upper;
    }
  }

  __device__ void write_new_row(uint32_t place, int row, const uint4& chunk) const {
    const uint32_t at =
        place + static_cast<uint32_t>(row * Part::kRowBytes + (lane_ < 8 ? 0 : Part::kKeyBytes));
    if (lane_ < 16) Part::store(at, lane_ % 8, chunk);
    __syncwarp();
  }

  /// This warp's rows; the first `rows` are valid.
  __device__ __forceinline__ void add(const uint32_t (&query)[4][2], int rows, const HeadFragments& f,
                                      Sum& sum) const {
    float scores[2][4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) Part::multiply(scores[i % 2], f.keys[i], query[i][0], query[i][1]);
    // Rows lane / 4 and lane / 4 + 8: upper bits and remainder of the query, two chains each.
    float first = (scores[0][0] + scores[1][0]) + (scores[0][1] + scores[1][1]);
    float second = (scores[0][2] + scores[1][2]) + (scores[0][3] + scores[1][3]);
    if (lane_ / 4 >= rows) first = kLowestScore;
    if (lane_ / 4 + 8 >= rows) second = kLowestScore;
    float largest = fmaxf(first, second);
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2)
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
    largest = fmaxf(largest, sum.largest);
    const float shrink = exp2_fast(sum.largest - largest);
    first = exp2_fast(first - largest), second = exp2_fast(second - largest);
    sum.largest = largest;
    sum.denominator = sum.denominator * shrink + (first + second);
    uint32_t weights[4];
    make_weights(first, second, weights);
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) sum.out[j][e] *= shrink;
#pragma unroll
    for (int j = 0; j < 8; ++j)
      Part::multiply(sum.out[j], weights, f.values[j / 2][j % 2 * 2], f.values[j / 2][j % 2 * 2 + 1]);
  }

  /// As A; its rows other than 0 and 8 are unused copies.
  __device__ __forceinline__ void make_weights(float first, float second, uint32_t (&a)[4]) const {
    const int source = lane_ % 4 * 8;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float own = half == 0 ? first : second;
      const float x = __shfl_sync(0xffffffffu, own, source), y = __shfl_sync(0xffffffffu, own, source + 4);
      const auto [upper, remainder] = Part::split({x, y});
      a[2 * half] = upper, a[2 * half + 1] = remainder;
    }
  }

  /// Merges the warps and publishes the block's partial. Heads are counted over all slots.
  __device__ __forceinline__ void merge_and_publish(int head, Sum& sum) const {
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2)
      sum.denominator += __shfl_xor_sync(0xffffffffu, sum.denominator, offset);
    float* parts = warp_partials_ + buffer_ * kWarpPartialFloats;
    buffer_ ^= 1;
    float* own = parts + warp_ * partial_stride(plan_.shape);
    if (lane_ < 4) {
#pragma unroll
      for (int j = 0; j < 8; ++j)
        Part::store_sums(own, lane_, j, {sum.out[j][0] + sum.out[j][2], sum.out[j][1] + sum.out[j][3]});
      if (lane_ == 0) *reinterpret_cast<float2*>(own + kHeadWidth) = {sum.largest, sum.denominator};
    }
    consumer_barrier();
    if (warp_ > 0) return;
    uint64_t* to = partial_words(a_, plan_.shape, head, static_cast<int>(blockIdx.x));
    merge_warp_partials(parts, kConsumerWarps, kHeadWidth, lane_, [&](float2 pair, int channel) {
      publish(to + channel, pair.x, pair.y, inputs_.partial_flag);
    });
  }

  const DecodeArguments& a_;
  DecodeShared& shared_;
  uint32_t ring_;
  float2* own_;  // the warp's, [32]
  float* warp_partials_;
  int& buffer_;
  const AttentionPlan& plan_;
  FlaggedInputs inputs_;
  int warp_, lane_;
};

#endif
}  // namespace perceiver::kernels::cuda
