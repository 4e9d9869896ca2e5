// What the parts of the fused decode step share: its arguments, the layout of shared memory, the ring of
// weight tiles, the barrier over the whole grid, and the few instructions of Hopper that these need.
#pragma once

#include "kernels/cuda/attention/mma.cuh"
#include "kernels/cuda/hopper/primitives.cuh"
#include "kernels/cuda/support/vector.cuh"
#include "kernels/decode.h"
#include "kernels/elementwise.h"

namespace perceiver::kernels::cuda {

using bf16 = __nv_bfloat16;
using hopper::bulk_load;
using hopper::fence_proxy_async;
using hopper::kWarpArrivals;
using hopper::mbarrier_arrive_warp;
using hopper::mbarrier_expect_tx;
using hopper::mbarrier_init;
using hopper::mbarrier_test_wait;
using hopper::mbarrier_wait;

inline constexpr int kConsumerWarps = 8;
inline constexpr int kConsumers = kConsumerWarps * 32;
// The first warp behind them is the producer; the rest of its warpgroup is there for the registers alone,
// which are given and taken by the warpgroup.
inline constexpr int kProducerWarp = kConsumerWarps;
inline constexpr int kDecodeThreads = kConsumers + 128;
/// Registers of a thread. With one slot the producer's warpgroup has the finishers too.
template <int kSlots>
struct DecodeRegisters {
  static constexpr int kConsumer = kSlots == 1 ? 208 : 224, kProducer = kSlots == 1 ? 88 : 56;
  // Together what 384 threads start with, 168 each: more than the block has would be waited for forever.
  static_assert(kConsumers * kConsumer + 128 * kProducer <= kDecodeThreads * 168);
};

// A tile of weights: up to 8 rows by 1024 columns. Rows are padded by 64 bytes, so that the 8 lanes of a
// 16-byte access, four to a row, fall on different banks.
inline constexpr int kTileRows = 8;
inline constexpr int kTileColumns = 1024;
inline constexpr int kRowPitch = kTileColumns * 2 + 64;
inline constexpr int kStageBytes = kTileRows * kRowPitch;
inline constexpr int kCacheTileBytes = 16384;  // a tile of keys and values
inline constexpr int kLeastStages = 4, kMaxStages = 16;
inline constexpr int kInputBytes = 1024;  // of one slot, of a warp: its columns of 4 tiles

// Of decode_head_attention.cuh: channels; rows of a tile, of a warp; tiles taken at once.
inline constexpr int kHeadWidth = 64, kHeadTileRows = 64, kHeadRows = 16;
inline constexpr int kHeadTiles = kConsumerWarps * kHeadRows / kHeadTileRows;
inline constexpr int kHeadRowBytes = kHeadWidth * 2;
inline constexpr uint32_t kHeadValues = kHeadTileRows * kHeadRowBytes;  // behind the tile's keys
static_assert(2 * kHeadValues == kCacheTileBytes);

inline constexpr int kMaxSlots = 64;
inline constexpr int kMaxChannels = 1024;     // of what is normalised
inline constexpr float kNormEpsilon = 1e-5f;  // LayerNorm's
inline constexpr float kLog2E = 1.4426950408889634f;

/// One kind of attention. Its keys and values are read in tiles of `tile_rows` rows by `group` heads.
struct AttentionShape {
  int width, heads, head_dim;
  int group, groups;  // heads of a tile; heads / group
  int tile_rows;
  int warps;     // of a block that share a head
  bool by_head;  // decode_head_attention.cuh; tiles come as boxes of self_tiles
  int ring_rows;
  bool separate;  // partial results are combined in a phase of its own, not by every reader
  int bands, rotary_heads;
  const float* cosine;
  const float* sine;
};

inline constexpr int kFinisherWarps = 3, kReplicas = 2 * kFinisherWarps;

/// Words of data and tag by which blocks hand on the vectors of one slot (decode_exchange.cuh). What all
/// blocks read lies in several replicas, `stride` words apart.
struct FlaggedBuffers {
  uint64_t* latents[2];  // [replicas, Z] f32
  uint64_t* queries;     // [max(Z, A)] f32
  uint64_t* fresh;       // [1 + X, max(Z, A)] pairs of bf16: new keys, then values, of self and cross blocks
  uint64_t* partials;    // [groups + grid, group, head_dim + 2] f32: sums, then maximum and denominator
  uint64_t* attended;    // [replicas, max(Z, A) / 2] pairs of bf16
  uint64_t* hidden;      // [replicas, widest hidden / 2] pairs of bf16
  int latent_stride, attended_stride, hidden_stride, fresh_stride;
  int words;  // of all, which begin with the latents
};

inline constexpr uint32_t kTagsPerStep = 1024;
static_assert(8 + kMaxDecodeQueryLayers + 6 * (kMaxDecodeLayers + kMaxDecodeCrosses) < kTagsPerStep);
static_assert(kDecodeEpoch * kTagsPerStep <= uint64_t{1} << 32);

struct DecodeArguments {
  int slots, vocabulary, input, latent, layers, crosses, query_layers, position_tables, stages;
  int cross_hidden, self_hidden, query_offset;
  Activation activation, query_activation;
  bool query_residual;
  AttentionShape cross_shape, self_shape;

  const bf16* token_embedding;
  const bf16* position_table[kMaxDecodeTables];
  DecodeLinear query, output;
  DecodeLinear query_mlp[kMaxDecodeQueryLayers];
  DecodeNorm output_norm;
  bf16* self_kv;
  bf16* context_kv;
  const int32_t *token, *position, *table_position, *context_count, *context_row, *latent_count, *latent_row,
      *active;
  float* logits;

  // In the workspace.
  const DecodeCross* cross;  // [X]
  const DecodeSelf* self;    // [L]
  unsigned long long* arrivals;
  unsigned long long* ends;  // of steps, by blocks
  float* latents[2];         // [S, Z]; two for the layers of the query's MLP
  float* queries;            // [S, max(Z, A)], rotated, times softmax scale times log2(e)
  bf16* hidden;              // [S, widest hidden]
  bf16* rows[2];             // [S, widest input]: inputs of products, where shared memory does not hold them
  float* partials;           // [S * groups + grid, group, head_dim + 4]: sums, then maximum and denominator
  FlaggedBuffers flagged;    // of one slot, in place of the arrays above

  CUtensorMap self_tiles;  // of self_kv as [layers, ring_rows, 2 * Z], where attention is by head
  int cross_after[kMaxDecodeCrosses];

  // In the place of context_kv, which is null:
  const bf16* context_table;  // [X, V, 2A]
  int32_t *context_tokens, *context_positions;
  int table_bytes;  // of shared memory
};

/// A kind of attention and its work in this step.
struct AttentionPlan {
  AttentionShape shape;
  int tiles_before[kMaxSlots + 1];  // tiles of one group of heads before each slot
  int blocks;                       // that have tiles
  int begin, end;                   // tiles of this block
  int rows[kMaxSlots];              // valid rows; 0: the slot is idle
  int fresh_row[kMaxSlots];         // the row that this step writes
};

/// The beginning of shared memory; behind it lie the tables of blocks, the inputs' rows, partial sums, what
/// attention by table has (decode_table_attention.cuh), the ring.
struct DecodeShared {
  uint64_t full[kMaxStages], empty[kMaxStages];
  AttentionPlan cross, self;
  int position[kMaxSlots];
  // Of one slot:
  uint64_t sums_full[2], sums_empty[2];
  float2 moments[2][kConsumerWarps];  // a warp's sums of values and squares, of LayerNorms in turn
  uint32_t first_tag;
  bool clears;
};

// Partial results of attention: of the warps that share a head, [2, warp, 128 + 4] floats, two in turn; of
// one piece of a combination, [2, warp, 4] quadruples.
inline constexpr int kPartFloats = kConsumerWarps * (128 + 4), kPartsBytes = 2 * kPartFloats * 4;
inline constexpr int kMergeQuadruples = kConsumerWarps * 4, kMergeBytes = 2 * kMergeQuadruples * 16;

/// Where things lie in shared memory, in bytes.
struct DecodeLayout {
  int crosses, selves, rows, sums, table, ring;
  __host__ __device__ static int align(int bytes) { return (bytes + 127) / 128 * 128; }
  __host__ __device__ DecodeLayout(int slots, int cross_count, int layer_count, int table_bytes) {
    crosses = align(static_cast<int>(sizeof(DecodeShared)));
    selves = crosses + align(cross_count * static_cast<int>(sizeof(DecodeCross)));
    rows = selves + align(layer_count * static_cast<int>(sizeof(DecodeSelf)));
    sums = rows + align(rows_bytes(slots));
    table = sums + align(sums_bytes(slots));
    ring = table + align(table_bytes);
  }
  /// Inputs of products.
  __host__ __device__ static int rows_bytes(int slots) {
    if (slots > 8) return 0;
    return slots > 1 ? slots * kRowPitch : kConsumerWarps * kInputBytes;
  }
  /// Outputs of one pass of a product, of each warp; or partial results of attention, which one slot has
  /// beside them.
  __host__ __device__ static int sums_bytes(int slots) {
    const int products = pass_tiles(slots) * kConsumerWarps * slots * kTileRows * 4;
    if (slots == 1) return products + kMergeBytes + kPartsBytes;
    return products > kPartsBytes ? products : kPartsBytes;
  }
  /// Tiles of 8 outputs in one pass: at most 64 (tile, slot) pairs, hence a pair of outputs per thread.
  __host__ __device__ static int pass_tiles(int slots) {
    return slots <= 8 ? 8 : slots <= 16 ? 4 : slots <= 32 ? 2 : 1;
  }
};

__device__ inline void consumer_barrier() {
  asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory");
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define PERCEIVER_DECODE_SM90 1

/// Between the producer and all other threads, while these set up what the block shares. The producer gives
/// the barriers of the ring, and starts copies; it takes the plans and tables.
struct SetUp {
  __device__ static void ring_is_ready() { arrive<2>(); }
  __device__ static void plans_are_ready() { arrive<3>(); }
  __device__ static void wait_for_ring() { wait<2>(); }
  __device__ static void wait_for_plans() { wait<3>(); }

 private:
  template <int kBarrier>
  __device__ static void arrive() {
    asm volatile("bar.arrive %0, %1;" ::"n"(kBarrier), "n"(kDecodeThreads) : "memory");
  }
  template <int kBarrier>
  __device__ static void wait() {
    asm volatile("bar.sync %0, %1;" ::"n"(kBarrier), "n"(kDecodeThreads) : "memory");
  }
};

/// Makes the barrier's phase wait for this thread's copies so far.
__device__ inline void copies_arrive(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

/// Changes the number of registers of this thread; all of the warpgroup call it.
template <int kRegisters, bool kMore>
__device__ inline void set_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  if constexpr (kMore) {
    hopper::warpgroup_reg_alloc<kRegisters>();
  } else {
    hopper::warpgroup_reg_dealloc<kRegisters>();
  }
#endif
}

/// A place in the ring.
struct RingCursor {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance(int stages) {
    if (++stage < stages) return;
    stage = 0;
    parity ^= 1;
  }
};

/// A barrier over all consumers of the grid, in two halves. The count of arrivals only ever grows, by a
/// multiple of the grid in every launch, so that it needs no reset. A thread of the last warp publishes and
/// polls: the first warp has the most to do in between.
class GridBarrier {
 public:
  __device__ explicit GridBarrier(unsigned long long* arrivals) : arrivals_(arrivals) {
    if (threadIdx.x != kLeader) return;
    const unsigned long long now = load();
    target_ = now - now % gridDim.x;
  }
  /// Publishes what the consumers of this block wrote.
  __device__ void arrive() {
    consumer_barrier();
    if (threadIdx.x != kLeader) return;
    target_ += gridDim.x;
    asm volatile("red.release.gpu.global.add.u64 [%0], 1;" ::"l"(arrivals_) : "memory");
  }
  __device__ void wait() {
    if (threadIdx.x == kLeader)
      while (load() < target_) {
      }
    consumer_barrier();
  }

 private:
  static constexpr unsigned kLeader = kConsumers - 32;

  __device__ unsigned long long load() const {
    unsigned long long value;
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(arrivals_) : "memory");
    return value;
  }
  unsigned long long* arrivals_;
  unsigned long long target_ = 0;  // of the leader
};

/// This block's share of `count` things, dealt to the first `blocks` blocks.
struct Share {
  int begin, end;
  __device__ explicit Share(int count, unsigned blocks = gridDim.x)
      : begin(begin_of(blockIdx.x, count, blocks)), end(begin_of(blockIdx.x + 1, count, blocks)) {}
  /// The block that has thing i.
  __device__ static int owner(int i, int count, unsigned blocks) {
    return static_cast<int>((static_cast<unsigned>(i + 1) * blocks - 1) / static_cast<unsigned>(count));
  }

 private:
  __device__ static int begin_of(unsigned block, int count, unsigned blocks) {
    return static_cast<int>(static_cast<unsigned>(count) * min(block, blocks) / blocks);
  }
};

/// Deals tiles of attention to blocks: to as few as do not raise the largest share, so that shares end where
/// heads do if they can. None of them is without a tile: the partial results of a head come from blocks
/// without a gap.
__device__ inline void share_tiles(int tiles, AttentionPlan& plan) {
  const unsigned count = max(1u, static_cast<unsigned>(tiles)), share = (count - 1) / gridDim.x + 1;
  plan.blocks = static_cast<int>((count - 1) / share + 1);
  const Share own(tiles, static_cast<unsigned>(plan.blocks));
  plan.begin = own.begin, plan.end = own.end;
}

// What other blocks wrote during this kernel is read past the first-level cache.
__device__ inline float4 load_fresh(const float* from) {
  return __ldcg(reinterpret_cast<const float4*>(from));
}
__device__ inline uint4 load_fresh(const bf16* from) {
  return __ldcg(reinterpret_cast<const uint4*>(from));
}

__device__ inline void prefetch_line(const void* from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

__device__ inline uint4 load_shared(uint32_t address) {
  uint4 x;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(address));
  return x;
}

__device__ inline uint2 load_shared_pair(uint32_t address) {
  uint2 x;
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(x.x), "=r"(x.y) : "r"(address));
  return x;
}

/// What a product reads.
enum class ProductInput { embedding, embedding_norm, latent, latent_norm, attended, hidden };
/// Where it goes. `attention`: the first query_rows outputs to the queries, the rest to the cache.
enum class ProductOutput { latent, latent_add, latent_activated, attention, hidden, logits };

/// Outputs = W · input + bias for every slot.
struct Product {
  DecodeLinear linear;
  int rows, columns;  // outputs, inputs
  ProductInput input;
  ProductOutput output;
  DecodeNorm norm;
  Activation activation;
  int query_rows, position_offset;  // for `attention`
  bf16* cache;                      // [S, ring_rows, 2 * width]
  int fresh;                        // whose new keys and values: 0 self, 1 + cross block
  int layer;                        // of self-attention
};

/// A phase of the step: a product, or attention of the queries over a cache (product.cache).
struct Phase {
  bool attends;
  bool cross;  // which plan `attended`, `attention` and attends refer to
  bool ends;   // other blocks wait for it
  bool swaps;  // the latents are now in the other buffer
  Product product;
};

#endif

}  // namespace perceiver::kernels::cuda
