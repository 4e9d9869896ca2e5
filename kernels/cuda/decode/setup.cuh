// The setup of a block of the fused decode step: mbarriers, attention plans and tables of weights in shared
// memory, and prefetches for the first phases.
#pragma once

#include "kernels/cuda/decode/flagged_buffers.cuh"
#include "kernels/cuda/decode/loads.cuh"
#include "kernels/cuda/decode/program.cuh"
#include "kernels/cuda/decode/table_attention.cuh"
#include "kernels/cuda/decode/work_split.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

/// One slot's rows in the attention plans.
__device__ inline void load_context(const DecodeArguments& a, int slot, DecodeShared& shared) {
  const int active = a.active[slot], count = a.context_count[slot], row = a.context_row[slot];
  shared.cross.rows[slot] = active != 0 ? count : 0;
  shared.cross.new_row[slot] = row;
}
__device__ inline void load_latents(const DecodeArguments& a, int slot, DecodeShared& shared) {
  const int active = a.active[slot], count = a.latent_count[slot], row = a.latent_row[slot],
            position = a.position[slot];
  shared.self.rows[slot] = active != 0 ? count : 0;
  shared.self.new_row[slot] = row;
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

/// One warp per plan, so that their memory latencies overlap.
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

/// By lanes of a warp that makes no plan.
__device__ inline void make_steps(const DecodeArguments& a, DecodeShared& shared) {
  const int step = static_cast<int>(threadIdx.x) - kConsumers + 32;
  if (step < 0 || step >= 2 * kBlockSteps) return;
  shared.steps[step] = step < kBlockSteps ? self_step(a, step) : cross_step(a, step - kBlockSteps);
}

/// The first phase starts with the tokens' embeddings: brings them into the L2 cache.
__device__ inline void prefetch_embedding(const DecodeArguments& a, int thread) {
  const int lines = (a.input * 2 + 127) / 128;
  if (thread >= 0 && thread < lines * a.slots)
    prefetch_l2(reinterpret_cast<const char*>(a.token_embedding +
                                              static_cast<int64_t>(a.token[thread / lines]) * a.input) +
                thread % lines * 128);
}

/// Brings this block's rows of a weight into the L2 cache.
template <DType kWeights>
__device__ inline void prefetch_rows(const void* weight, int rows, int columns) {
  const Share tiles((rows + kTileRows - 1) / kTileRows);
  const int begin = tiles.begin * kTileRows, end = min(rows, tiles.end * kTileRows);
  if (begin >= end) return;
  asm volatile(
      "cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(
          static_cast<const char*>(weight) + static_cast<int64_t>(begin) * columns * kWeightBytes<kWeights>),
      "r"((end - begin) * columns * kWeightBytes<kWeights>)
      : "memory");
}

/// Prefetches what the producer will copy as soon as it has the tables.
template <DType kWeights>
__device__ inline void prefetch_weights(const DecodeArguments& a) {
  if (a.context_kv != nullptr)
    prefetch_rows<kWeights>(a.cross[0].kv.weight, 2 * a.cross_shape.width, a.input);
  prefetch_rows<kWeights>(a.cross[0].q.weight, a.cross_shape.width, a.latent);
}

template <typename Table>
__device__ inline void copy_table(const Table* from, int count, unsigned char* to) {
  const uint64_t* words = reinterpret_cast<const uint64_t*>(from);
  for (int i = static_cast<int>(threadIdx.x); i < count * static_cast<int>(sizeof(Table) / 8);
       i += kConsumers)
    reinterpret_cast<uint64_t*>(to)[i] = words[i];
}

/// By one thread.
template <int kSlots>
__device__ inline void make_barriers(const DecodeArguments& a, DecodeShared& shared) {
  for (int i = 0; i < a.stages; ++i) {
    mbarrier_init(shared_address(&shared.full[i]), kWarpArrivals);
    mbarrier_init(shared_address(&shared.empty[i]), kConsumerWarps * kWarpArrivals);
  }
  mbarrier_init(shared_address(&shared.inputs_made), 1);
  for (int i = 0; i < 2; ++i) {
    mbarrier_init(shared_address(&shared.sums_full[i]), kConsumerWarps * kWarpArrivals);
    mbarrier_init(shared_address(&shared.sums_empty[i]), epilogue_warps(kSlots) * kWarpArrivals);
  }
  fence_proxy_async();
}

/// Initialises what lasts in shared memory: mbarriers, plans, tables. Not inlined, so that it does not
/// constrain the registers of the roles.
template <int kSlots, bool kByTable, DType kWeights>
__device__ __noinline__ void set_up_block(const DecodeArguments& a, unsigned char* cross_table,
                                          unsigned char* self_table, unsigned char* memory) {
  DecodeShared& shared = *reinterpret_cast<DecodeShared*>(memory);
  if (threadIdx.x / 32 == kProducerWarp) {
    if (threadIdx.x % 32 == 0) make_barriers<kSlots>(a, shared);
    __syncwarp();
    return SetupBarriers::ring_is_ready();
  }
  if (kSlots <= kFewSlots && threadIdx.x == 32) begin_step(a, shared);
  if (kByTable && blockIdx.x == 0 && threadIdx.x == kConsumers + 64) write_new_token(a);
  if (threadIdx.x == kConsumers + 32) prefetch_weights<kWeights>(a);
  make_plans<kByTable>(a, shared);
  make_steps(a, shared);
  prefetch_embedding(a, static_cast<int>(threadIdx.x) - 128);
  if (threadIdx.x < kConsumers) {
    copy_table(a.cross, a.cross_blocks, cross_table);
    copy_table(a.self, a.layers, self_table);
  }
  SetupBarriers::plans_are_ready();
  SetupBarriers::wait_for_ring();
}

#endif
}  // namespace perceiver::kernels::cuda
