// Attention of the fused decode step over a context that is kept as tokens, for one slot: by mixed tables
// (see attention/table_attention.cu), in place of the tiles of keys and values of attention.cuh.
//
// A tile of the plan is a run of the context for one group of one or two heads. There are at most as many as
// blocks, so that a block takes one and mixes the tables once; all runs have the same length. The block goes
// over its run 512 positions at a time, two per consumer, with their angles in flight meanwhile: 64 KB
// per block. It publishes what DecodeAttention does, so that combining is the same. No phase computes the
// new token's key and value: its id and position are the step's arguments, and the rings have them from the
// next step on.
//
// Two heads of a block share the angles of a position, which come from the L2 cache: with 16 heads of 16
// bands 134 MB at 131,072 positions, an estimated 25 us; single heads take twice that. Single heads leave
// more room for the ring, which does not pay off for a short context.
//
// Shared memory at 259 ids and 16 bands: 77 KB for two heads, 41 KB for one, which leaves 7 or 9 stages for
// the ring.
#pragma once

#include "kernels/cuda/attention/table_attention.cuh"
#include "kernels/cuda/decode/attention.cuh"
#include "kernels/cuda/decode/producer.cuh"

namespace perceiver::kernels::cuda {

inline constexpr int kDecodeTableHeads = 2;    // at most, of a block
inline constexpr int64_t kPairedRows = 16384;  // of a ring: from here on heads are paired
inline constexpr int kMinTableTileRows = 512;  // of a tile: fewer cost less than mixing
inline constexpr int kMinTableStages = 5;      // of the ring, beside the tables
inline constexpr int kTableSharedBytes = 227 << 10;

#ifdef PERCEIVER_DECODE_SM90

/// Positions of a tile.
__device__ inline int table_tile_rows(const AttentionShape& shape, int rows) {
  const int tiles = max(1, static_cast<int>(gridDim.x) / shape.groups);
  return max(kMinTableTileRows, (rows + tiles - 1) / tiles);
}

/// For the following steps. Blocks of this step do not read the row.
__device__ inline void write_new_token(const DecodeArguments& a) {
  if (a.active[0] == 0) return;
  const int row = a.context_row[0];
  a.context_tokens[row] = a.token[0];
  a.context_positions[row] = a.position[0];
}

/// Skips attention over the context, which has no cache.
template <DType kWeights>
class TableProducer : public DecodeProducer<kWeights, 0, 1> {
 public:
  using DecodeProducer<kWeights, 0, 1>::DecodeProducer;
  __device__ __forceinline__ void attention(const Product& p, const AttentionPlan& plan) {
    if (p.kv_index == 0) DecodeProducer<kWeights, 0, 1>::attention(p, plan);
  }
};

struct ConsumerBarrier {
  __device__ static void wait() { consumer_barrier(); }
};

class DecodeTableAttention {
  using Part = TableAttention<bf16, kConsumers, ConsumerBarrier, kDecodeTableHeads, 1>;

 public:
  /// `memory`: table_bytes of shared memory.
  __device__ DecodeTableAttention(const DecodeArguments& a, const DecodeShared& shared, unsigned char* memory,
                                  int cross_block, const FlaggedInputs& inputs)
      : a_(a),
        shared_(shared),
        shape_(shared.cross.shape),
        memory_(memory),
        table_(a.context_table + static_cast<int64_t>(cross_block) * a.vocabulary * (2 * shape_.width)),
        inputs_(inputs) {}

  __device__ __forceinline__ void run() {
    const AttentionPlan& plan = shared_.cross;
    const int tiles = plan.tiles_before[1];
#pragma unroll 1
    for (int i = plan.begin; i < plan.end;) {
      const int group = i / tiles, tile = i % tiles, count = min(plan.end - i, tiles - tile);
      const int begin = tile * shape_.tile_rows;
      attend(group, begin, min(plan.rows[0], begin + count * shape_.tile_rows));
      i += count;
    }
  }

 private:
  /// Rows [begin, end) for one group of heads.
  __device__ __forceinline__ void attend(int group, int begin, int end) const {
    const TableLayout layout(a_.vocabulary, shape_.head_dim, shape_.bands, shape_.group, kConsumerWarps);
    Part part(context(group), layout, memory_);
    const int head_words = partial_words_stride(shape_);
    const uint64_t* queries = a_.flagged.queries + group * shape_.group * shape_.head_dim;
    uint64_t* to = partial_words(a_, shape_, group, static_cast<int>(blockIdx.x));
    const FlaggedInputs& flags = inputs_;
    part.mix([&](int head, int channel) {
      uint2 pair[1];
      receive(queries + head * shape_.head_dim + channel / 2 * 2, flags.query_flag, pair);
      return __uint_as_float(channel % 2 == 0 ? pair[0].x : pair[0].y);
    });
    part.attend(begin, end);
    part.finish(
        [&](int head, int channel, float2 sums) {
          publish(to + head * head_words + channel, sums.x, sums.y, flags.partial_flag);
        },
        [&](int head, float largest, float sum) {
          publish(to + head * head_words + shape_.head_dim, largest, sum, flags.partial_flag);
        });
  }

  __device__ __forceinline__ TableContext<bf16> context(int group) const {
    const int first_head = group * shape_.group;
    TableContext<bf16> c;
    c.keys = table_ + first_head * shape_.head_dim;
    c.stride = 2 * shape_.width;
    c.tokens = a_.context_tokens, c.positions = a_.context_positions;
    // From the arguments rather than the plan, so that the compiler knows that they are in global memory.
    c.cosine = a_.cross_shape.cosine, c.sine = a_.cross_shape.sine;
    c.vocabulary = a_.vocabulary, c.head_dim = shape_.head_dim, c.bands = shape_.bands;
    c.heads = shape_.group, c.rotary_heads = max(0, min(shape_.rotary_heads - first_head, shape_.group));
    c.wide_rows = c.wide_angles = true;
    c.fresh_row = shared_.cross.new_row[0];
    c.fresh_token = a_.token[0], c.fresh_position = shared_.position[0];
    return c;
  }

  const DecodeArguments& a_;
  const DecodeShared& shared_;
  const AttentionShape& shape_;
  unsigned char* memory_;
  const bf16* table_;
  FlaggedInputs inputs_;
};

#endif
}  // namespace perceiver::kernels::cuda
