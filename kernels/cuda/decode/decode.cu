// The fused decode step: one persistent, cooperative kernel per token.
//
// A step reads every weight once and does two operations with it, so that memory bandwidth is all that
// counts, and a layer is short: at width 1024, 25.2 MB of weights and 4.2 MB of keys and values, 9.8 us
// at 3.0 TB/s. Single kernels start, fill and drain in about that time. Here one block per multiprocessor
// stays for the whole step. Its producer warp (decode_producer.cuh) streams the block's share of all weights
// and caches through a ring in shared memory, in the order of the phases (decode_program.cuh) but without
// waiting for them: 12 stages of 16.5 KiB, 26 MB over the GPU, a whole layer ahead. The consumers go from
// phase to phase: with several slots by barriers over the grid (decode_consumer.cuh), with one by words that
// carry their own tags (decode_single.cuh, decode_finisher.cuh, decode_exchange.cuh). While they wait, the
// ring fills.
//
// Phases: Linear_z with the context's new keys and values; then per block q (or qkv); attention; its
// combination with the output projection, for one slot before it; MLP up; MLP down; at last the logits.
// Outputs are dealt to blocks in tiles of 8 rows (16 KiB at width 1024): 3, 1, 4 and 1 (of 4 stages) per
// block and layer, attention 2 tiles of 64 rows by one head. The latents stay in f32; LayerNorm is done anew
// by each block that needs it, up to 8 slots.
//
// Floors at 3.0 TB/s: imagenet64 1.84 GB, 614 us; music4k 0.45 GB, 149 us; copy131k 0.74 GB, 247 us with a
// cached context. Measured on an H100, one slot: 843, 196 and 283 us, 73, 76 and 87%. What bounds a layer is
// the chain of its six phases, 23000 cycles for imagenet64: on a GPU that does nothing else a word takes 700
// cycles from one block to another, 2000 from 132 blocks to all of them, 3600 while copies come in bursts,
// hence the producer's pace; a spilled register costs 900 cycles wherever it is reloaded, so that none may be
// in the loop. The beginning of a step misses every cache of instructions and constants: 10 us to the end of
// the first phase, 17 where streamed data have pushed code out of the second-level cache, hence the copies'
// hint.
//
// A context kept as tokens is attended to by table (decode_table_attention.cuh): its phase takes nothing out
// of the ring, which is shorter, 7 stages at 259 ids.
//
// Shared memory: ring 12 * 16896 bytes at one slot; inputs 2112 bytes per slot from 2 to 8, 8 KiB for one;
// sums 9 to 16 KiB; tables of blocks, 96 bytes per layer.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/decode/consumer.cuh"
#include "kernels/cuda/decode/producer.cuh"
#include "kernels/cuda/decode/program.cuh"
#include "kernels/cuda/decode/single.cuh"
#include "kernels/cuda/hopper/tensor_map.h"

namespace perceiver::kernels::cuda {
namespace {

#ifdef PERCEIVER_DECODE_SM90

template <typename Actor>
__device__ __forceinline__ void run(const DecodeArguments& a, DecodeShared& shared, unsigned char* memory,
                                    const DecodeLayout& layout, Actor& actor) {
  DecodeProgram program(a, reinterpret_cast<const DecodeCross*>(memory + layout.crosses),
                        reinterpret_cast<const DecodeSelf*>(memory + layout.selves));
  Phase phase;
  // A branch with nothing in it, before which the compiler lets all go that the loop does not need: with 8
  // slots it spills 65 registers without, 9 with it (nvcc 13.0).
  if (threadIdx.x == 0) asm volatile("" ::: "memory");
  while (program.next(phase)) {
    const AttentionPlan& plan = phase.cross ? shared.cross : shared.self;
    if (phase.attends) {
      actor.attention(phase.product, plan);
    } else {
      actor.product(phase.product, plan);
    }
    if (phase.ends) actor.arrive();
    if (phase.swaps) actor.swap_latents();
  }
  actor.end();
}

/// The attention plans' rows of one slot.
__device__ inline void load_context(const DecodeArguments& a, int slot, DecodeShared& shared) {
  const int active = a.active[slot], count = a.context_count[slot], row = a.context_row[slot];
  shared.cross.rows[slot] = active != 0 ? count : 0;
  shared.cross.fresh_row[slot] = row;
}
__device__ inline void load_latents(const DecodeArguments& a, int slot, DecodeShared& shared) {
  const int active = a.active[slot], count = a.latent_count[slot], row = a.latent_row[slot],
            position = a.position[slot];
  shared.self.rows[slot] = active != 0 ? count : 0;
  shared.self.fresh_row[slot] = row;
  shared.position[slot] = position;
}

__device__ inline void count_tiles(int slots, const AttentionShape& shape, int tile_rows,
                                   AttentionPlan& plan) {
  plan.shape = shape;
  plan.shape.tile_rows = tile_rows;
  int tiles = 0;
  for (int s = 0; s < slots; ++s) {
    plan.tiles_before[s] = tiles;
    tiles += (plan.rows[s] + tile_rows - 1) / tile_rows;
  }
  plan.tiles_before[slots] = tiles;
  share_tiles(tiles * shape.groups, plan);
}

/// By one warp each, so that their trips to memory overlap.
template <bool kByTable>
__device__ inline void make_plans(const DecodeArguments& a, DecodeShared& shared) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (warp == 2) {
    for (int slot = lane; slot < a.slots; slot += 32) load_context(a, slot, shared);
    __syncwarp();
    const int rows =
        kByTable ? table_tile_rows(a.cross_shape, shared.cross.rows[0]) : a.cross_shape.tile_rows;
    if (lane == 0) count_tiles(a.slots, a.cross_shape, rows, shared.cross);
  } else if (warp == 3) {
    for (int slot = lane; slot < a.slots; slot += 32) load_latents(a, slot, shared);
    __syncwarp();
    if (lane == 0) count_tiles(a.slots, a.self_shape, a.self_shape.tile_rows, shared.self);
  }
}

/// The first phase begins with the tokens' embeddings: into the second-level cache by then.
__device__ inline void prefetch_embedding(const DecodeArguments& a, int thread) {
  const int lines = (a.input * 2 + 127) / 128;
  if (thread >= 0 && thread < lines * a.slots)
    prefetch_line(reinterpret_cast<const char*>(a.token_embedding +
                                                static_cast<int64_t>(a.token[thread / lines]) * a.input) +
                  thread % lines * 128);
}

/// This block's rows of a weight, into the second-level cache.
__device__ inline void prefetch_rows(const void* weight, int rows, int columns) {
  const Share tiles((rows + kTileRows - 1) / kTileRows);
  const int begin = tiles.begin * kTileRows, end = min(rows, tiles.end * kTileRows);
  if (begin >= end) return;
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(static_cast<const bf16*>(weight) +
                                                                  static_cast<int64_t>(begin) * columns),
               "r"((end - begin) * columns * 2)
               : "memory");
}

/// What the producer copies once it has the tables is on its way before.
__device__ inline void prefetch_weights(const DecodeArguments& a) {
  if (a.context_kv != nullptr) prefetch_rows(a.cross[0].kv.weight, 2 * a.cross_shape.width, a.input);
  prefetch_rows(a.cross[0].q.weight, a.cross_shape.width, a.latent);
}

template <typename Table>
__device__ inline void copy_table(const Table* from, int count, unsigned char* to) {
  const uint64_t* words = reinterpret_cast<const uint64_t*>(from);
  for (int i = static_cast<int>(threadIdx.x); i < count * static_cast<int>(sizeof(Table) / 8);
       i += kConsumers)
    reinterpret_cast<uint64_t*>(to)[i] = words[i];
}

/// By one thread.
__device__ inline void make_barriers(const DecodeArguments& a, DecodeShared& shared) {
  for (int i = 0; i < a.stages; ++i) {
    mbarrier_init(shared_address(&shared.full[i]), kWarpArrivals);
    mbarrier_init(shared_address(&shared.empty[i]), kConsumerWarps * kWarpArrivals);
  }
  for (int i = 0; i < 2; ++i) {
    mbarrier_init(shared_address(&shared.sums_full[i]), kConsumerWarps * kWarpArrivals);
    mbarrier_init(shared_address(&shared.sums_empty[i]), kFinisherWarps * kWarpArrivals);
  }
  fence_proxy_async();
}

/// Everything in shared memory that lasts. Not inlined, lest the actors' registers are those that it leaves.
template <int kSlots, bool kByTable>
__device__ __noinline__ void set_up(const DecodeArguments& a, const DecodeLayout& layout,
                                    unsigned char* memory) {
  DecodeShared& shared = *reinterpret_cast<DecodeShared*>(memory);
  if (threadIdx.x / 32 == kProducerWarp) {
    if (threadIdx.x % 32 == 0) make_barriers(a, shared);
    __syncwarp();
    return SetUp::ring_is_ready();
  }
  if (kSlots == 1 && threadIdx.x == 32) begin_step(a, shared);
  if (kByTable && blockIdx.x == 0 && threadIdx.x == kConsumers + 64) write_fresh_token(a);
  if (threadIdx.x == kConsumers + 32) prefetch_weights(a);
  make_plans<kByTable>(a, shared);
  prefetch_embedding(a, static_cast<int>(threadIdx.x) - 128);
  if (threadIdx.x < kConsumers) {
    copy_table(a.cross, a.crosses, memory + layout.crosses);
    copy_table(a.self, a.layers, memory + layout.selves);
  }
  SetUp::plans_are_ready();
  SetUp::wait_for_ring();
}

#endif

/// kByTable: of one slot, whose context is kept as tokens.
template <int kSlots, bool kByTable>
__global__ void __launch_bounds__(kDecodeThreads, 1)
    decode_kernel(const __grid_constant__ DecodeArguments a) {
#if defined(PERCEIVER_DECODE_SM90)
  extern __shared__ __align__(128) unsigned char memory[];
  DecodeShared& shared = *reinterpret_cast<DecodeShared*>(memory);
  const DecodeLayout layout(a.slots, a.crosses, a.layers, kByTable ? a.table_bytes : 0);
  set_up<kSlots, kByTable>(a, layout, memory);
  if (threadIdx.x >= kConsumers) {
    set_registers<DecodeRegisters<kSlots>::kProducer, false>();
    if (threadIdx.x / 32 == kProducerWarp) {
      std::conditional_t<kByTable, TableProducer, DecodeProducer> producer(
          a, shared, shared_address(memory + layout.ring));
      run(a, shared, memory, layout, producer);
    } else if constexpr (kSlots == 1) {
      DecodeEpilogue finisher(a, shared, memory, layout);
      run(a, shared, memory, layout, finisher);
    }
  } else {
    set_registers<DecodeRegisters<kSlots>::kConsumer, true>();
    std::conditional_t<kSlots == 1, DecodeSingle<kByTable>, DecodeConsumer<std::max(kSlots, 8)>> consumer(
        a, shared, memory, layout);
    run(a, shared, memory, layout, consumer);
  }
#endif
}

// ------------------------------------------------------------------------------------------------- host

constexpr int64_t kCountBytes = 256, kEndsAt = 128;  // counts of the barrier and of steps

int64_t align(int64_t bytes) {
  return ceil_div(bytes, 256) * 256;
}

/// Heads of a tile: the largest power of two that divides their number, up to `most`.
int heads_together(int64_t heads, int most) {
  int group = 1;
  while (heads % (2 * group) == 0 && 2 * group <= most) group *= 2;
  return group;
}

/// `few`: so few rows that they must be split over the blocks by heads, and a head's partial results are few.
AttentionShape attention_shape(int64_t width, int64_t heads, int64_t ring_rows, const DecodeRotary& rotary,
                               bool few) {
  AttentionShape shape{};
  shape.width = static_cast<int>(width);
  shape.heads = static_cast<int>(heads);
  shape.head_dim = static_cast<int>(width / heads);
  const int teams = kConsumers * 8 / shape.head_dim;
  shape.group = few ? 1 : heads_together(heads, teams);
  shape.groups = shape.heads / shape.group;
  shape.tile_rows = 2 * teams / shape.group;
  shape.warps = std::max(1, kConsumerWarps / shape.group);
  shape.by_head = few && shape.head_dim == 64;
  shape.ring_rows = static_cast<int>(ring_rows);
  shape.separate = !few;
  shape.bands = static_cast<int>(rotary.bands);
  shape.rotary_heads = static_cast<int>(rotary.heads);
  shape.cosine = static_cast<const float*>(rotary.cosine);
  shape.sine = static_cast<const float*>(rotary.sine);
  return shape;
}

bool by_table(const DecodeStep& k) {
  return k.context_table != nullptr;
}

/// Of attention by table in shared memory, with so many heads of a block; 0 without it.
int64_t table_bytes(const DecodeStep& k, int heads) {
  if (!by_table(k)) return 0;
  const int64_t head_dim = k.attention_width / k.cross_heads;
  return TableLayout(k.vocabulary, head_dim, k.cross_rotary.bands, heads, kConsumerWarps).bytes;
}

DecodeLayout layout_of(const DecodeStep& k, int table) {
  return {static_cast<int>(k.slots), static_cast<int>(k.cross_blocks), static_cast<int>(k.layers), table};
}

/// Heads that a block attends for by table, which share the angles of a position; 0 where not even one fits.
int table_heads(const DecodeStep& k) {
  int heads = k.context_rows >= kPairedRows ? heads_together(k.cross_heads, kDecodeTableHeads) : 1;
  const int64_t most = kTableSharedBytes - layout_of(k, 0).ring - kLeastTableStages * kStageBytes;
  while (heads > 0 && table_bytes(k, heads) > most) heads /= 2;
  return heads;
}

AttentionShape cross_shape(const DecodeStep& k) {
  AttentionShape shape =
      attention_shape(k.attention_width, k.cross_heads, k.context_rows, k.cross_rotary, false);
  if (!by_table(k)) return shape;
  shape.group = table_heads(k);
  shape.groups = shape.heads / shape.group;
  return shape;
}
AttentionShape self_shape(const DecodeStep& k) {
  return attention_shape(k.latent_channels, k.self_heads, k.latent_rows, k.self_rotary, k.slots == 1);
}

/// The workspace's parts, in bytes from its start. One slot has the exchange, in 8-byte words.
struct Workspace {
  int64_t crosses, selves, latents[2], queries, hidden, rows[2], partials, fresh, bytes;
  int64_t hidden_stride, rows_stride, fresh_stride;  // words

  Workspace(const DecodeStep& k, int blocks) {
    int64_t at = kCountBytes;
    const bool words = k.slots == 1;
    const auto take = [&](int64_t count, int64_t size) {
      const int64_t begin = at;
      at += align(count * (words ? 8 : size));
      return begin;
    };
    crosses = at, at += align(k.cross_blocks * static_cast<int64_t>(sizeof(DecodeCross)));
    selves = at, at += align(k.layers * static_cast<int64_t>(sizeof(DecodeSelf)));
    const int64_t z = k.latent_channels, a = k.attention_width, copies = words ? kReplicas : k.slots;
    fresh_stride = std::max(z, a);
    hidden_stride = std::max(k.cross_widening, k.self_widening) * z / 2;
    rows_stride = std::max({z, a, k.input_channels}) / 2;
    for (int64_t& part : latents) part = take(copies * z, 4);
    queries = take(k.slots * std::max(z, a), 4);
    hidden = take(copies * hidden_stride, 4);
    for (int64_t& part : rows) part = take(copies * rows_stride, 4);
    fresh = take(words ? (1 + k.cross_blocks) * fresh_stride : 0, 8);
    partials = take(
        std::max(partial_floats(k, cross_shape(k), blocks), partial_floats(k, self_shape(k), blocks)), 4);
    bytes = at;
  }

  static int64_t partial_floats(const DecodeStep& k, const AttentionShape& shape, int blocks) {
    return (k.slots * shape.groups + blocks) * shape.group * (shape.head_dim + 4);
  }
};

struct DeviceLimits {
  int major = 0, shared_bytes = 0, cooperative = 0;
};

DeviceLimits device_limits(const Launch& launch) {
  DeviceLimits limits;
  const int index = launch.device.index;
  check(cudaDeviceGetAttribute(&limits.major, cudaDevAttrComputeCapabilityMajor, index), "device attribute");
  check(cudaDeviceGetAttribute(&limits.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, index),
        "device attribute");
  check(cudaDeviceGetAttribute(&limits.cooperative, cudaDevAttrCooperativeLaunch, index), "device attribute");
  return limits;
}

/// Stages of the ring that fit.
int stages_of(const DecodeStep& k, const DeviceLimits& limits) {
  const DecodeLayout layout = layout_of(k, static_cast<int>(table_bytes(k, cross_shape(k).group)));
  return std::min(kMaxStages, (limits.shared_bytes - layout.ring) / kStageBytes);
}

bool present(std::initializer_list<const void*> pointers) {
  return std::find(pointers.begin(), pointers.end(), nullptr) == pointers.end() && aligned(pointers);
}
bool present(const DecodeLinear& linear) {
  return present({linear.weight}) && aligned({linear.bias});
}
bool present(const DecodeNorm& norm) {
  return present({norm.scale, norm.offset});
}

bool weights_present(const DecodeStep& k) {
  bool all = present({k.token_embedding}) && present(k.query) && present(k.output) && present(k.output_norm);
  for (int t = 0; t < k.position_tables; ++t) all = all && present({k.position_table[t]});
  for (int i = 0; i < k.query_layers; ++i) all = all && present(k.query_mlp[i]);
  for (int64_t x = 0; x < k.cross_blocks; ++x) {
    const DecodeCross& c = k.cross[x];
    all = all && present(c.norm_q) && present(c.norm_kv) && present(c.norm_mlp) && present(c.q) &&
          present(c.kv) && present(c.out) && present(c.mlp_0) && present(c.mlp_1);
  }
  for (int64_t l = 0; l < k.layers; ++l) {
    const DecodeSelf& s = k.self[l];
    all = all && present(s.norm) && present(s.norm_mlp) && present(s.qkv) && present(s.out) &&
          present(s.mlp_0) && present(s.mlp_1);
  }
  return all;
}

bool channels_fit(int64_t channels) {
  return channels > 0 && channels % 32 == 0 && channels <= kMaxChannels;
}

bool attention_fits(const DecodeStep& k, int64_t width, int64_t heads, int64_t ring_rows,
                    const DecodeRotary& rotary, int blocks) {
  if (heads <= 0 || width % heads != 0 || width > kTileColumns || ring_rows <= 0) return false;
  const int64_t head_dim = width / heads;
  if (head_dim != 32 && head_dim != 64 && head_dim != 128) return false;
  if (rotary.bands > 0 && (rotary.cosine == nullptr || rotary.sine == nullptr || 2 * rotary.bands > head_dim))
    return false;
  // The smallest tile has 2 rows of all heads or 32 of one.
  return k.slots * heads * ring_rows * blocks < int64_t{1} << 31;
}

/// The context in either form.
bool context_fits(const DecodeStep& k) {
  if (!by_table(k)) return present({k.context_kv});
  return k.context_kv == nullptr && k.slots == 1 && k.position_tables == 0 && table_heads(k) > 0 &&
         present({k.context_table, k.context_tokens, k.context_positions}) && k.cross_rotary.bands % 2 == 0 &&
         aligned({k.cross_rotary.cosine, k.cross_rotary.sine});
}

bool counts_fit(const DecodeStep& k) {
  return k.slots >= 1 && k.slots <= kMaxSlots && k.layers >= 1 && k.layers <= kMaxDecodeLayers &&
         k.cross_blocks >= 1 && k.cross_blocks <= kMaxDecodeCrosses && k.query_layers >= 0 &&
         k.query_layers <= kMaxDecodeQueryLayers && k.position_tables >= 0 &&
         k.position_tables <= kMaxDecodeTables && k.cross_widening >= 1 && k.self_widening >= 1 &&
         k.vocabulary >= 1;
}

DecodeArguments make_arguments(const DecodeStep& k, int blocks, int stages) {
  DecodeArguments a{};
  a.slots = static_cast<int>(k.slots);
  a.vocabulary = static_cast<int>(k.vocabulary);
  a.input = static_cast<int>(k.input_channels);
  a.latent = static_cast<int>(k.latent_channels);
  a.layers = static_cast<int>(k.layers);
  a.crosses = static_cast<int>(k.cross_blocks);
  a.query_layers = k.query_layers;
  a.position_tables = k.position_tables;
  a.stages = stages;
  a.cross_hidden = static_cast<int>(k.cross_widening * k.latent_channels);
  a.self_hidden = static_cast<int>(k.self_widening * k.latent_channels);
  a.query_offset = static_cast<int>(k.query_offset);
  a.activation = k.activation;
  a.query_activation = k.query_activation;
  a.query_residual = k.query_residual;
  a.cross_shape = cross_shape(k);
  a.self_shape = self_shape(k);
  a.token_embedding = static_cast<const bf16*>(k.token_embedding);
  for (int t = 0; t < k.position_tables; ++t)
    a.position_table[t] = static_cast<const bf16*>(k.position_table[t]);
  a.query = k.query;
  a.output = k.output;
  std::copy_n(k.query_mlp, k.query_layers, a.query_mlp);
  a.output_norm = k.output_norm;
  a.self_kv = static_cast<bf16*>(k.self_kv);
  a.context_kv = static_cast<bf16*>(k.context_kv);
  a.context_table = static_cast<const bf16*>(k.context_table);
  a.context_tokens = k.context_tokens, a.context_positions = k.context_positions;
  a.table_bytes = static_cast<int>(table_bytes(k, a.cross_shape.group));
  a.token = k.token;
  a.position = k.position;
  a.table_position = k.table_position;
  a.context_count = k.context_count;
  a.context_row = k.context_row;
  a.latent_count = k.latent_count;
  a.latent_row = k.latent_row;
  a.active = k.active;
  a.logits = k.logits;
  const Workspace parts(k, blocks);
  unsigned char* base = static_cast<unsigned char*>(k.workspace);
  a.arrivals = reinterpret_cast<unsigned long long*>(base);
  a.ends = reinterpret_cast<unsigned long long*>(base + kEndsAt);
  for (int i = 0; i < 2; ++i) {
    a.latents[i] = reinterpret_cast<float*>(base + parts.latents[i]);
    a.rows[i] = reinterpret_cast<bf16*>(base + parts.rows[i]);
  }
  a.queries = reinterpret_cast<float*>(base + parts.queries);
  a.hidden = reinterpret_cast<bf16*>(base + parts.hidden);
  a.partials = reinterpret_cast<float*>(base + parts.partials);
  const auto words = [&](int64_t at) { return reinterpret_cast<uint64_t*>(base + at); };
  a.flagged = {{words(parts.latents[0]), words(parts.latents[1])},
               words(parts.queries),
               words(parts.fresh),
               words(parts.partials),
               words(parts.rows[0]),
               words(parts.hidden),
               a.latent,
               static_cast<int>(parts.rows_stride),
               static_cast<int>(parts.hidden_stride),
               static_cast<int>(parts.fresh_stride),
               static_cast<int>((parts.bytes - parts.latents[0]) / 8)};
  if (a.self_shape.by_head)
    a.self_tiles = hopper::tensor_map(k.self_kv, k.layers, k.latent_rows, 2 * k.latent_channels,
                                      2 * k.latent_channels, kHeadTileRows);
  for (int64_t i = 0; i + 1 < k.cross_blocks; ++i) a.cross_after[i] = static_cast<int>(k.cross_after[i]);
  a.cross = reinterpret_cast<const DecodeCross*>(base + parts.crosses);
  a.self = reinterpret_cast<const DecodeSelf*>(base + parts.selves);
  return a;
}

/// For the smallest of 1, 8, 16, 32, 64 slots that holds those of the step.
auto kernel_of(const DecodeStep& k) {
  if (by_table(k)) return decode_kernel<1, true>;
  if (k.slots == 1) return decode_kernel<1, false>;
  if (k.slots <= 8) return decode_kernel<8, false>;
  if (k.slots <= 16) return decode_kernel<16, false>;
  if (k.slots <= 32) return decode_kernel<32, false>;
  return decode_kernel<64, false>;
}

}  // namespace

bool decode_supports(const Launch& launch, const DecodeStep& k) {
  if (k.type != DType::bf16 || !counts_fit(k)) return false;
  if (!channels_fit(k.input_channels) || !channels_fit(k.latent_channels)) return false;
  const int blocks = launch.sm_count;
  // The finishers of one slot keep the latents of up to 8 tiles.
  if (k.latent_channels > 8 * kTileRows * blocks) return false;
  if (!attention_fits(k, k.attention_width, k.cross_heads, k.context_rows, k.cross_rotary, blocks))
    return false;
  if (!attention_fits(k, k.latent_channels, k.self_heads, k.latent_rows, k.self_rotary, blocks)) return false;
  if (!weights_present(k) || !present({k.self_kv, k.logits}) || !context_fits(k)) return false;
  const DeviceLimits limits = device_limits(launch);
  return limits.major == 9 && limits.cooperative != 0 && stages_of(k, limits) >= kLeastStages;
}

int64_t decode_workspace(const Launch& launch, const DecodeStep& k) {
  return Workspace(k, launch.sm_count).bytes;
}

void decode_prepare(const Launch& launch, const DecodeStep& k) {
  const Workspace parts(k, launch.sm_count);
  const auto stream = stream_of(launch);
  unsigned char* base = static_cast<unsigned char*>(k.workspace);
  check(cudaMemsetAsync(base, 0, static_cast<size_t>(parts.bytes), stream), "workspace of decode_step");
  const auto copy = [&](int64_t at, const void* from, int64_t bytes) {
    check(cudaMemcpyAsync(base + at, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream),
          "workspace of decode_step");
  };
  copy(parts.crosses, k.cross, k.cross_blocks * static_cast<int64_t>(sizeof(DecodeCross)));
  copy(parts.selves, k.self, k.layers * static_cast<int64_t>(sizeof(DecodeSelf)));
}

void decode_step(const Launch& launch, const DecodeStep& k) {
  const int blocks = launch.sm_count;
  const int stages = stages_of(k, device_limits(launch));
  const DecodeArguments arguments = make_arguments(k, blocks, stages);
  const DecodeLayout layout = layout_of(k, arguments.table_bytes);
  cudaLaunchAttribute cooperative{};
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kDecodeThreads);
  config.dynamicSmemBytes = static_cast<size_t>(layout.ring + stages * kStageBytes);
  config.stream = stream_of(launch);
  config.attrs = &cooperative;
  config.numAttrs = 1;
  const auto kernel = kernel_of(k);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(config.dynamicSmemBytes)),
        "shared memory of decode_step");
  check(cudaLaunchKernelEx(&config, kernel, arguments), "decode_step");
}

}  // namespace perceiver::kernels::cuda
