// The fused decode step: one persistent, cooperative kernel per token.
//
// A step reads every weight once and does two operations with it, so memory bandwidth is all that counts, and
// a layer is short: at width 1024, 25.2 MB of weights and 4.2 MB of keys and values, 9.8 us at 3.0 TB/s.
// Separate kernels take about that long to start, fill and drain. Here one block per SM stays for the whole
// step, its warps in three roles (roles.cuh):
// - The producer warp (producer.cuh) streams the block's share of all weights and caches through a ring of
//   stages in shared memory (ring.cuh), in the order of the phases (program.cuh) but without waiting for
//   them: 12 stages of 16.5 KiB, 26 MB over the GPU, a whole layer ahead. With 9 to 64 slots it copies the
//   inputs of products as well, for which it waits (input_tiles.cuh).
// - The consumer warps go from phase to phase: with up to 4 slots by flagged buffers (flagged_consumer.cuh,
//   flagged_buffers.cuh), with 9 to 64 by barriers over the grid (many_slots_consumer.cuh), with 5 to 8 by
//   these, but for attention's results, which go through flagged buffers (few_slots_consumer.cuh). While they
//   wait, the ring fills.
// - With up to 4 slots, the epilogue warps (flagged_epilogue.cuh) publish a phase's outputs while the
//   consumers are at the next.
//
// Phases: Linear_z with the context's new keys and values; then per block q (or qkv); attention; the combine
// of its split-KV partials and the output projection, with up to 8 slots as two phases; MLP up; MLP down;
// finally the logits. Outputs are divided among blocks in tiles of 8 rows (16 KiB at width 1024): 3, 1, 4 and
// 1 (of 4 stages) per block and layer, attention 2 tiles of 64 rows of one head. The latents stay in f32;
// each block that needs a LayerNorm computes it itself, up to 8 slots.
//
// Floors at 3.0 TB/s: imagenet64 1.84 GB, 614 us; music4k 0.45 GB, 149 us; copy131k 0.74 GB, 247 us with a
// cached context. Measured on an H100, one slot: 843, 196 and 283 us, 73, 76 and 87%; on an H200 688, 170 and
// 214. A layer is bound by the chain of its six phases: on an otherwise idle GPU a word takes 700 cycles from
// one block to another, 2000 from 132 blocks to all of them, 3600 while copies come in bursts, which is why
// the producer paces itself. Twice the words cost only 200 to 850 cycles more, which is why a second slot
// takes little besides its caches' bytes; a spilled register costs 900 cycles wherever it is reloaded, so the
// loop must not have any. The start of a step misses every instruction and constant cache: 10 us to the end
// of the first phase, 17 where streamed data have evicted the code from L2, hence the evict-first hint of the
// copies.
//
// Weights of eight bits (narrow_weights.cuh) lie in the same tiles, of half the bytes, so that phases, tiles
// and the depth of the ring in phases stay what they are; the epilogue multiplies sums by the scales of rows.
// With one slot integers are multiplied as they are, with 2 to 4 as f16, as e4m3 is with up to 4
// (held_products.cuh); with more the consumers make bf16 of both as they take them from the ring. Half the
// bytes make a step only a little faster: they are not what bounds it. With one slot the conversion of e4m3,
// about 1000 cycles of a phase of 4 tiles, fits into the time in which a phase's inputs are on their way from
// other blocks.
//
// That time, some 2000 cycles from the publication of a vector to its arrival in all blocks, is also what
// consumers have to find the next phase, its share and its weights: whatever takes longer than that delays
// the question for the inputs, and so the chain. Hence tables instead of branches (BlockStep) and no
// divisions there, and nothing that waits for a load from global memory.
//
// Caches of eight bits (cache_part.cuh): a row of a head has half the bytes, so that a tile of several heads
// has twice the rows. 64 sequences of music4k take 35% less, a context of 131,072 keys for one 25%.
//
// A context kept as tokens is attended to by table (table_attention.cuh): that phase takes nothing from the
// ring, which is shorter, 7 stages at 259 ids.
//
// Shared memory: ring 12 * 16896 bytes with one slot or many, 10 or 11 between; inputs of products 8.5 KiB
// per slot for up to 4, 2112 bytes for up to 8, in the ring for more; partial sums 9 to 18 KiB; tables of
// block weights, 96 bytes per layer.
#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/cuda/decode/few_slots_consumer.cuh"
#include "kernels/cuda/decode/flagged_consumer.cuh"
#include "kernels/cuda/decode/many_slots_consumer.cuh"
#include "kernels/cuda/decode/producer.cuh"
#include "kernels/cuda/decode/program.cuh"
#include "kernels/cuda/decode/setup.cuh"
#include "kernels/cuda/decode/workspace.cuh"

namespace perceiver::kernels::cuda {
namespace {

#ifdef PERCEIVER_DECODE_SM90

/// `aside`: where the program is between phases, if they are in shared memory.
template <typename Role>
__device__ __forceinline__ bool next_phase(DecodeProgram& program, Phase& phase, uint32_t aside) {
  if (!Role::kPhaseInShared) return program.next(phase);
  program.take_back(aside);
  Phase next;
  const bool more = program.next(next);
  program.put_aside(aside);  // after which all lanes are done with the phase before
  if (threadIdx.x % 32 == 0) phase = next;
  __syncwarp();
  return more;
}

template <typename Role>
__device__ __forceinline__ void run(const DecodeArguments& a, DecodeShared& shared, unsigned char* memory,
                                    const DecodeLayout& layout, Role& role) {
  DecodeProgram program(a, reinterpret_cast<const DecodeCross*>(memory + layout.cross_table),
                        reinterpret_cast<const DecodeSelf*>(memory + layout.self_table), shared.steps);
  const uint32_t warp = threadIdx.x / 32 % kConsumerWarps, aside = shared_address(shared.aside[warp]);
  Phase own;
  Phase& phase = Role::kPhaseInShared ? *reinterpret_cast<Phase*>(shared.phases[warp]) : own;
  // An empty branch, at which the compiler drops everything that the loop does not need: with 8 slots it
  // spilled 65 registers without it (nvcc 13.0).
  if (threadIdx.x == 0) asm volatile("" ::: "memory");
  if (Role::kPhaseInShared) program.put_aside(aside);
  while (next_phase<Role>(program, phase, aside)) {
    const AttentionPlan& plan = phase.cross ? shared.cross : shared.self;
    if (phase.attends) {
      const bool needs_registers = Role::kAsideForContext && phase.product.kv_index > 0;
      if (needs_registers) program.put_aside(aside);
      role.attention(phase.product, plan);
      if (needs_registers) program.take_back(aside);
    } else {
      role.product(phase.product, plan);
    }
    if (phase.publishes) role.arrive(phase.attends);
    if (phase.swaps_latents) role.swap_latents();
  }
  role.end();
}

template <int kSlots, bool kByTable, DType kWeights, DType kCache>
using Consumer = std::conditional_t<
    is_flagged(kSlots), FlaggedConsumer<kSlots, kByTable, kWeights, kCache>,
    std::conditional_t<kSlots <= kFewSlots, FewSlotsConsumer<kWeights>, ManySlotsConsumer<kSlots, kWeights>>>;

#endif

/// kByTable: for one slot, whose context is kept as tokens. kCache: of the caches where all vectors go
/// through flagged buffers; with more slots they are told apart at run time, which would cost one slot 1.5%.
template <int kSlots, bool kByTable, DType kWeights, DType kCache = DType::bf16>
__global__ void __launch_bounds__(kDecodeThreads, 1)
    decode_kernel(const __grid_constant__ DecodeArguments a) {
#if defined(PERCEIVER_DECODE_SM90)
  extern __shared__ __align__(128) unsigned char memory[];
  DecodeShared& shared = *reinterpret_cast<DecodeShared*>(memory);
  const DecodeLayout layout(is_flagged(kSlots) ? kSlots : a.slots, a.cross_blocks, a.layers,
                            kByTable ? a.table_bytes : 0);
  set_up_block<kSlots, kByTable, kWeights>(a, memory + layout.cross_table, memory + layout.self_table,
                                           memory);
  if (threadIdx.x >= kConsumers) {
    set_registers<DecodeRegisters<kSlots>::kProducer, false>();
    if (threadIdx.x / 32 == kProducerWarp) {
      using Producer = DecodeProducer<kWeights, input_sets(kSlots), is_flagged(kSlots) ? kSlots : 0>;
      std::conditional_t<kByTable, TableProducer<kWeights>, Producer> producer(
          a, shared, shared_address(memory + layout.ring));
      run(a, shared, memory, layout, producer);
    } else if constexpr (is_flagged(kSlots)) {
      if (threadIdx.x / 32 >= kEpilogueWarp + epilogue_warps(kSlots)) return;
      FlaggedEpilogue<kSlots, kWeights, kCache> epilogue(a, shared, memory, layout);
      run(a, shared, memory, layout, epilogue);
    }
  } else {
    set_registers<DecodeRegisters<kSlots>::kConsumer, true>();
    Consumer<kSlots, kByTable, kWeights, kCache> consumer(a, shared, memory, layout);
    run(a, shared, memory, layout, consumer);
  }
#endif
}

// ------------------------------------------------------------------------------------------------- host

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

/// With many slots a pass of at least one tile must fit.
int min_stages(const DecodeStep& k) {
  return std::max(kMinStages, input_stages(input_sets(static_cast<int>(k.slots))) + 1);
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

/// Of the keys and values of the context that a step reads.
int64_t context_bytes(const DecodeStep& k) {
  if (by_table(k)) return 0;
  return k.slots * k.cross_blocks * k.context_rows * 2 * k.attention_width *
         static_cast<int64_t>(size_of(k.cache_type));
}

bool channels_fit(int64_t channels) {
  return channels > 0 && channels % 32 == 0 && channels <= kMaxChannels;
}

bool attention_fits(const DecodeStep& k, int64_t width, int64_t heads, int64_t ring_rows,
                    const DecodeRotary& rotary, int blocks) {
  if (heads <= 0 || width % heads != 0 || width > kTileColumns || ring_rows <= 0) return false;
  const int64_t head_dim = width / heads;
  if (!std::has_single_bit(static_cast<uint64_t>(head_dim)) || head_dim < 32 || head_dim > 256) return false;
  if (rotary.bands > 0 && (rotary.cosine == nullptr || rotary.sine == nullptr || 2 * rotary.bands > head_dim))
    return false;
  // A tile has at least 16 pairs of a row and a head; work_split.cuh multiplies tiles by blocks.
  return k.slots * heads * (ring_rows / 16 + 1) * blocks < int64_t{1} << 31;
}

/// Shares of the rows of a product: grid_reciprocal().
bool rows_fit(const DecodeStep& k, int blocks) {
  const int64_t hidden = std::max(k.cross_widening, k.self_widening) * k.latent_channels;
  const int64_t rows = std::max({k.vocabulary, hidden, 3 * k.latent_channels, 2 * k.attention_width});
  return rows < int64_t{1} << 31 && (rows / kTileRows + 1) * blocks * blocks < int64_t{1} << 32;
}

/// The context, in whichever form it is kept.
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

template <int kSlots, DType kWeights>
auto flagged_kernel(const DecodeStep& k) {
  return is_narrow(k.cache_type) ? decode_kernel<kSlots, false, kWeights, DType::e4m3>
                                 : decode_kernel<kSlots, false, kWeights>;
}

/// Compiled for 1, 2, 3 and 4 slots, and for the smallest of 8, 16, 32 and 64 that is enough.
template <DType kWeights>
auto kernel_with(const DecodeStep& k) {
  if (by_table(k))
    return is_narrow(k.cache_type) ? decode_kernel<1, true, kWeights, DType::e4m3>
                                   : decode_kernel<1, true, kWeights>;
  if (k.slots == 1) return flagged_kernel<1, kWeights>(k);
  static_assert(kFlaggedSlots == 4);
  if (k.slots == 2) return flagged_kernel<2, kWeights>(k);
  if (k.slots == 3) return flagged_kernel<3, kWeights>(k);
  if (k.slots == 4) return flagged_kernel<4, kWeights>(k);
  if (k.slots <= kFewSlots) return decode_kernel<kFewSlots, false, kWeights>;
  if (k.slots <= 16) return decode_kernel<16, false, kWeights>;
  if (k.slots <= 32) return decode_kernel<32, false, kWeights>;
  return decode_kernel<64, false, kWeights>;
}
auto kernel_of(const DecodeStep& k) {
  switch (k.weight_type) {
    case DType::i8:
      return kernel_with<DType::i8>(k);
    case DType::e4m3:
      return kernel_with<DType::e4m3>(k);
    default:
      return kernel_with<DType::bf16>(k);
  }
}

}  // namespace

int decode_blocks(const Launch& launch, const DecodeStep& k) {
  const int64_t weights = k.layers * (4 + 2 * k.self_widening) * k.latent_channels * k.latent_channels *
                          static_cast<int64_t>(size_of(k.weight_type));
  if (!all_flagged(k) || context_bytes(k) > weights) return launch.sm_count;
  return static_cast<int>(std::clamp<int64_t>(k.latent_channels / kTileRows, 1, launch.sm_count));
}

bool decode_supports(const Launch& launch, const DecodeStep& k) {
  if (k.type != DType::bf16 || !counts_fit(k)) return false;
  if (k.weight_type != k.type && !is_narrow(k.weight_type)) return false;
  if (k.cache_type != k.type && k.cache_type != DType::e4m3) return false;
  if (!channels_fit(k.input_channels) || !channels_fit(k.latent_channels)) return false;
  const int blocks = decode_blocks(launch, k);
  if (!rows_fit(k, blocks)) return false;
  // The epilogue of one slot keeps the latents of up to 8 tiles.
  if (k.latent_channels > 8 * kTileRows * blocks) return false;
  if (!attention_fits(k, k.attention_width, k.cross_heads, k.context_rows, k.cross_rotary, blocks))
    return false;
  if (!attention_fits(k, k.latent_channels, k.self_heads, k.latent_rows, k.self_rotary, blocks)) return false;
  if (!weights_present(k) || !present({k.self_kv, k.logits}) || !context_fits(k)) return false;
  const DeviceLimits limits = device_limits(launch);
  return limits.major == 9 && limits.cooperative != 0 && stages_of(k, limits) >= min_stages(k);
}

int64_t decode_workspace(const Launch& launch, const DecodeStep& k) {
  return DecodeWorkspace(k, decode_blocks(launch, k)).bytes;
}

void decode_prepare(const Launch& launch, const DecodeStep& k) {
  const DecodeWorkspace parts(k, decode_blocks(launch, k));
  const auto stream = stream_of(launch);
  unsigned char* base = static_cast<unsigned char*>(k.workspace);
  check(cudaMemsetAsync(base, 0, static_cast<size_t>(parts.bytes), stream), "workspace of decode_step");
  const auto copy = [&](int64_t at, const void* from, int64_t bytes) {
    check(cudaMemcpyAsync(base + at, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream),
          "workspace of decode_step");
  };
  copy(parts.cross_table, k.cross, k.cross_blocks * static_cast<int64_t>(sizeof(DecodeCross)));
  copy(parts.self_table, k.self, k.layers * static_cast<int64_t>(sizeof(DecodeSelf)));
}

void decode_step(const Launch& launch, const DecodeStep& k) {
  const int blocks = decode_blocks(launch, k);
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
