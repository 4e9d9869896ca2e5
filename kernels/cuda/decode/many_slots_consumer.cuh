// The consumers of the fused decode step for 9 to 64 slots, with a barrier over the grid between phases. What
// counts are the bytes of the caches, and how long each phase keeps memory waiting.
//
// Products as in few_slots_consumer.cuh, but with the 16 slots of a set of warps as the rows of A. Each block
// normalises or combines its share of the inputs and publishes it in the workspace; the producer copies them
// all into the ring, after the weights of a pass and as soon as the barrier has been passed: 128 KiB with 64
// slots and 1024 columns, which take 1,900 cycles, where loads into registers take 6,000 (H200). A warp
// multiplies its columns of a stage of inputs by the weights of up to 4 tiles, which stay in the ring until
// all inputs have come.
//
// The last product of a layer has up to 4 times as many columns. They are divided among 4 groups of blocks,
// whose sums the next phase adds when it normalises the latents: a block reads 128 KiB of inputs for 4 tiles,
// not 512 KiB for each.
#pragma once

#include "kernels/cuda/decode/attention.cuh"
#include "kernels/cuda/decode/input_tiles.cuh"
#include "kernels/cuda/decode/slot_consumer.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

/// kSlots: 16, 32 or 64, at least the slots of the step.
template <int kSlots, DType kWeights>
class ManySlotsConsumer : public SlotConsumer {
  // Sets of warps have 16 slots each; the warps of a set divide the columns among themselves.
  static constexpr int kParts = DecodeLayout::parts(kSlots), kSets = kConsumerWarps / kParts;
  static constexpr int kBlocks = kStageColumns<kSets> / kInputColumns / kParts;  // of a warp and stage
  static constexpr int kPairs = kPassTiles * kSlots * 4 / kConsumers;            // of outputs, of a thread
  static_assert(kSets == input_sets(kSlots) && kSlots == kSetSlots * kSets);

 public:
  static constexpr bool kPhaseInShared = true;

  __device__ ManySlotsConsumer(const DecodeArguments& a, DecodeShared& shared, unsigned char* memory,
                               const DecodeLayout& layout)
      : SlotConsumer(a, shared, memory, layout, kSlots), part_(warp_ / kSets), set_(warp_ % kSets) {
    asm volatile("" : "+r"(ring_));  // else what it is made of is spilled
  }

  /// Ends a phase whose results other blocks read in the next.
  __device__ void arrive(bool) { grid_.arrive(); }
  __device__ void end() {}

  __device__ __forceinline__ void product(const Product& p, const AttentionPlan& plan) {
    const ProductShare share(p.rows, p.columns);
    const int most = pass_tiles(a_.stages, kSets);
    OutputPair results[kPairs];
    prepare_input(p, plan, share);
    load_pass(p, plan, share, share.tiles.begin, most, results);
    if (p.input == Input::hidden) added_parts_ = share.parts - 1;
#pragma unroll 1
    for (int first = share.tiles.begin; first < share.tiles.end; first += most) {
      if (first > share.tiles.begin) {
        consumer_barrier();  // the sums have been read
        load_pass(p, plan, share, first, most, results);
      }
      multiply_pass(share, min(most, share.tiles.end - first));
      consumer_barrier();
      float* to = share.part == 0 ? latents() : a_.latent_sums + (share.part - 1) * a_.slots * p.rows;
      write_outputs<kWeights, kParts>(p, plan, results, to,
                                      [&](int row) { return a_.hidden + input_place(slot_, row, p.rows); });
    }
  }

  __device__ __forceinline__ void attention(const Product& p, const AttentionPlan& plan) {
    if (a_.cache_bytes == 1) {
      attend<DType::e4m3>(p, plan);
    } else {
      attend<DType::bf16>(p, plan);
    }
  }

 private:
  template <DType kCache>
  __device__ __forceinline__ void attend(const Product& p, const AttentionPlan& plan) {
    DecodeAttention<kCache, 0, false, true> work(a_, shared_, ring_, sums_, partials_buffer_, p.cache, plan);
    grid_.wait();
    work.run(cursor_);
  }

  __device__ __forceinline__ void load_pass(const Product& p, const AttentionPlan& plan,
                                            const ProductShare& share, int first, int most,
                                            OutputPair (&results)[kPairs]) const {
    const int count = min(most, share.tiles.end - first);
#pragma unroll
    for (int i = 0; i < kPairs; ++i)
      results[i] = load_operands<kWeights>(p, plan, first, count, first_tile_ + i * (kPassTiles / kPairs),
                                           share.part == 0);
  }

  // ------------------------------------------------------------------ inputs

  /// Waits for the previous phase, makes this block's share of the inputs, and lets the producer copy all of
  /// them once they are there.
  __device__ void prepare_input(const Product& p, const AttentionPlan& plan, const ProductShare& share) {
    if (p.input != Input::hidden) {
      bf16* rows = a_.rows[rows_buffer_];
      rows_buffer_ ^= 1;
      if (p.input == Input::attended) {
        combine_share(plan, rows);
      } else {
        make_share(p, rows);
      }
      grid_.arrive();
    }
    if (share.empty()) return grid_.wait();
    grid_.delegate(shared_address(&shared_.inputs_made));
  }

  /// The rows of this block's slots.
  __device__ void make_share(const Product& p, bf16* rows) {
    NormRow<kConsumerWarps> row(warp_);
    const bool norm = is_norm(p);
    const int first = static_cast<int>(blockIdx.x);
    if (norm && first < a_.slots) row.load_norm(p.norm, p.columns);
    grid_.wait();
#pragma unroll 1
    for (int slot = first; slot < a_.slots; slot += static_cast<int>(gridDim.x)) {
      load_row(p, slot, row);
      if (added_parts_ > 0) add_parts(p, slot, row);
      if (norm) {
        if (slot > first) consumer_barrier();  // the moments have been read
        row.normalise(merge_moments(row.moments(p.columns), p.columns, row), p.columns);
      }
      row.store(p.columns, [&](int column) { return rows + input_place(slot, column, p.columns); });
    }
    added_parts_ = 0;
  }

  /// Completes the latents of a slot.
  __device__ void add_parts(const Product& p, int slot, NormRow<kConsumerWarps>& row) const {
    row.template add_rows<kDepthParts - 1>(a_.latent_sums + slot * p.columns, a_.slots * p.columns,
                                           added_parts_, p.columns);
    row.store_values(latents() + slot * p.columns, p.columns);
  }

  /// Where the partials of a head are.
  struct HeadParts {
    const float* first;
    int count;
  };

  /// Waits, and combines this block's share of the heads of all slots, each by one warp.
  __device__ void combine_share(const AttentionPlan& plan, bf16* rows) {
    const AttentionShape& shape = plan.shape;
    const int count = a_.slots * shape.heads, step = static_cast<int>(gridDim.x) * kConsumerWarps;
    int i = static_cast<int>(blockIdx.x) + warp_ * static_cast<int>(gridDim.x);
    HeadParts parts = i < count ? parts_of(plan, i) : HeadParts{nullptr, 0};
    grid_.wait();
#pragma unroll 1
    while (i < count) {
      combine(shape, i, parts, rows);
      i += step;
      if (i < count) parts = parts_of(plan, i);
    }
  }

  /// i: of all slots' heads.
  __device__ HeadParts parts_of(const AttentionPlan& plan, int i) const {
    const AttentionShape& shape = plan.shape;
    const int slot = i / shape.heads, head = i % shape.heads;
    const int group = head / shape.group, within = head % shape.group;
    const int total = plan.tiles_before[a_.slots] * shape.groups;
    const unsigned blocks = static_cast<unsigned>(plan.blocks);
    const int tiles = plan.tiles_before[slot + 1] - plan.tiles_before[slot];
    const int begin = plan.tiles_before[slot] * shape.groups + group * tiles;
    const int first = tiles > 0 ? Share::owner(begin, total, blocks) : 0;
    const int count = tiles > 0 ? Share::owner(begin + tiles - 1, total, blocks) - first + 1 : 0;
    return {partial_result(a_, shape, slot, group, first) + within * partial_stride(shape), count};
  }

  __device__ void combine(const AttentionShape& shape, int i, const HeadParts& parts, bf16* rows) {
    switch (shape.head_dim) {
      case 32:
        return combine_head<1>(shape, i, parts, rows);
      case 64:
        return combine_head<2>(shape, i, parts, rows);
      case 128:
        return combine_head<4>(shape, i, parts, rows);
      default:  // 256, by halves
        combine_head<4>(shape, i, parts, rows);
        return combine_head<4>(shape, i, parts, rows, 128);
    }
  }

  /// Channels `first` to first + 32 * N - 1 of a head.
  template <int N>
  __device__ void combine_head(const AttentionShape& shape, int i, const HeadParts& parts, bf16* rows,
                               int first = 0) {
    PartialSum<N> sum;
    sum.add(parts.first + first, shape.group * partial_stride(shape), parts.count, shape.head_dim - first);
    const int column = i % shape.heads * shape.head_dim + first + lane_ * N;
    sum.write_quotient(rows + input_place(i / shape.heads, column, shape.width));
  }

  // ---------------------------------------------------------------- products

  // A tile's sums are those of two chains of dependent products.

  /// Multiplies this warp's slots and columns of `count` tiles; leaves the sums in shared memory.
  __device__ __forceinline__ void multiply_pass(const ProductShare& share, int count) {
    switch (count) {
      case 1:
        return multiply_tiles<1>(share);
      case 2:
        return multiply_tiles<2>(share);
      case 3:
        return multiply_tiles<3>(share);
      default:
        return multiply_tiles<4>(share);
    }
  }

  template <int kTiles>
  __device__ __forceinline__ void multiply_tiles(const ProductShare& share) {
    float sums[kTiles][2][4] = {};
#pragma unroll 1
    for (int begin = share.first_column; begin < share.end_column; begin += kTileColumns)
      multiply_columns(min(kTileColumns, share.end_column - begin), sums);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) write_sums(tile, sums[tile]);
  }

  /// A tile of columns.
  template <int kTiles>
  __device__ __forceinline__ void multiply_columns(int columns, float (&sums)[kTiles][2][4]) {
    uint32_t weights[kTiles], empty[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      mbarrier_wait(shared_address(&shared_.full[cursor_.stage]), cursor_.parity);
      weights[tile] = lane_weights<kWeights>(ring_, cursor_.stage, lane_);
      empty[tile] = shared_address(&shared_.empty[cursor_.stage]);
      cursor_.advance(a_.stages);
    }
    const int own_columns = set_ * kSetSlots < a_.slots ? columns : 0;
#pragma unroll 1
    for (int begin = 0; begin < columns; begin += kStageColumns<kSets>)
      multiply_stage(begin, own_columns, weights, sums);
#pragma unroll
    for (const uint32_t stage : empty) mbarrier_arrive_warp(stage);
  }

  /// A stage of inputs, whose first column in the tile is `begin`. Elements at or past `columns` are zeros.
  template <int kTiles>
  __device__ __forceinline__ void multiply_stage(int begin, int columns, const uint32_t (&weights)[kTiles],
                                                 float (&sums)[kTiles][2][4]) {
    const uint32_t inputs =
        ring_ + static_cast<uint32_t>(cursor_.stage * kStageBytes + set_ * kStageSetBytes<kSets> +
                                      part_ * kInputTileBytes + lane_ * 16);
    mbarrier_wait(shared_address(&shared_.full[cursor_.stage]), cursor_.parity);
    uint4 low[kBlocks] = {}, high[kBlocks] = {}, w[kTiles][kBlocks];
    const int first_block = begin / kInputColumns + part_;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      if ((first_block + b * kParts) * kInputColumns >= columns) continue;
      const uint32_t at = inputs + static_cast<uint32_t>(b * kParts * kInputTileBytes);
      low[b] = load_shared(at), high[b] = load_shared(at + kInputTileBytes / 2);
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
      load_weights<kWeights>(weights[tile], first_block, kParts, columns, w[tile]);
    mbarrier_arrive_warp(shared_address(&shared_.empty[cursor_.stage]));
    cursor_.advance(a_.stages);
#pragma unroll
    for (int b = 0; b < kBlocks; ++b)
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const uint4 x = w[tile][b];
        multiply_add(sums[tile][0], {low[b].x, high[b].x, low[b].y, high[b].y}, x.x, x.y);
        multiply_add(sums[tile][1], {low[b].z, high[b].z, low[b].w, high[b].w}, x.z, x.w);
      }
  }

  __device__ void write_sums(int tile, const float (&c)[2][4]) const {
    float* to = sums_ + (tile * kParts + part_) * a_.slots * kTileRows + lane_ % 4 * 2;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int slot = set_ * kSetSlots + lane_ / 4 + h * 8;
      if (slot < a_.slots)
        *reinterpret_cast<float2*>(to + slot * kTileRows) = {c[0][2 * h] + c[1][2 * h],
                                                             c[0][2 * h + 1] + c[1][2 * h + 1]};
    }
  }

  int part_, set_;  // of the columns of a stage, of the slots
  int rows_buffer_ = 0;
  int added_parts_ = 0;  // that the latents lack
};

#endif
}  // namespace perceiver::kernels::cuda
