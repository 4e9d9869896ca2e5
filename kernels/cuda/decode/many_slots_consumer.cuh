// The consumers of the fused decode step for 9 to 64 slots, with a barrier over the grid between phases. What
// counts are the bytes of the caches.
//
// Products as in few_slots_consumer.cuh, but with the 16 slots of a set of warps as the rows of A, and
// weights that are multiplied as they are taken from the ring. Each block normalises or combines its share of
// the inputs and publishes it in the workspace.
#pragma once

#include "kernels/cuda/decode/attention.cuh"
#include "kernels/cuda/decode/slot_consumer.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

/// kSlots: 16, 32 or 64, at least the slots of the step.
template <int kSlots, DType kWeights>
class ManySlotsConsumer : public SlotConsumer {
  // Sets of warps have 16 slots each; the warps of a set divide the columns among themselves.
  static constexpr int kParts = DecodeLayout::parts(kSlots), kSets = kConsumerWarps / kParts;
  static constexpr int kWarpBlocks = kTileColumns / 32 / kParts;       // of 32 columns, of a warp and tile
  static constexpr int kTogether = kSlots == 16 ? 4 : 1;               // tiles of columns whose A is held
  static constexpr int kBlocks = 4;                                    // whose weights are loaded together
  static constexpr int kChains = kSlots == 64 ? 2 : 4;                 // of dependent products
  static constexpr int kPairs = kPassTiles * kSlots * 4 / kConsumers;  // of outputs, of a thread and pass
  // What the outputs need besides their sums is loaded before the products, unless these need all registers.
  static constexpr bool kLateOperands = kSlots == 64;
  using Inputs = uint4[kTogether][kWarpBlocks][2];  // this thread's part of A
  static_assert(kSlots == 16 * kSets && kWarpBlocks % kBlocks == 0);

 public:
  static constexpr bool kPhaseInShared = true;

  __device__ ManySlotsConsumer(const DecodeArguments& a, DecodeShared& shared, unsigned char* memory,
                               const DecodeLayout& layout)
      : SlotConsumer(a, shared, memory, layout, kSlots),
        part_(warp_ / kSets),
        first_row_(warp_ % kSets * 16 + lane_ / 4) {}

  /// Ends a phase whose results other blocks read in the next.
  __device__ void arrive(bool) { grid_.arrive(); }
  __device__ void end() {}

  __device__ __forceinline__ void product(const Product& p, const AttentionPlan& plan) {
    const Share tiles((p.rows + kTileRows - 1) / kTileRows);
    OutputPair results[kPairs];
    if (!kLateOperands) load_pass(p, plan, tiles, tiles.begin, results);
    const InputRows input = prepare_input(p, plan);
    if (tiles.begin == tiles.end) return;
#pragma unroll 1
    for (int first = tiles.begin; first < tiles.end; first += kPassTiles) {
      if (first > tiles.begin) {
        consumer_barrier();  // the sums have been read
        if (!kLateOperands) load_pass(p, plan, tiles, first, results);
      }
      multiply(p, input, min(kPassTiles, tiles.end - first));
      if (kLateOperands) load_pass(p, plan, tiles, first, results);
      consumer_barrier();
#pragma unroll
      for (const OutputPair& result : results)
        if (result.valid) write_outputs<kWeights>(p, plan, result, total<kParts>(result.tile));
    }
  }

  __device__ __forceinline__ void attention(const Product& p, const AttentionPlan& plan) {
    DecodeAttention<false, false, true> work(a_, shared_, ring_, sums_, partials_buffer_, p.cache, plan);
    grid_.wait();
    work.run(cursor_);
  }

 private:
  /// Where the rows of inputs are in the workspace.
  struct InputRows {
    const bf16* memory;
    int pitch;  // elements
  };

  __device__ __forceinline__ void load_pass(const Product& p, const AttentionPlan& plan, const Share& tiles,
                                            int first, OutputPair (&results)[kPairs]) const {
    const int count = min(kPassTiles, tiles.end - first);
#pragma unroll
    for (int i = 0; i < kPairs; ++i)
      results[i] = load_operands<kWeights>(p, plan, first, count, first_tile_ + i * (kPassTiles / kPairs));
  }

  // ------------------------------------------------------------------ inputs

  /// Waits for the previous phase and returns where the inputs are.
  __device__ InputRows prepare_input(const Product& p, const AttentionPlan& plan) {
    if (p.input == Input::hidden) {
      grid_.wait();
      return {a_.hidden, p.columns};
    }
    bf16* rows = a_.rows[rows_buffer_];
    rows_buffer_ ^= 1;
    if (p.input == Input::attended) {
      grid_.wait();
      combine_share(plan, rows);
    } else {
      make_share(p, rows);
    }
    grid_.arrive();
    grid_.wait();
    return {rows, p.columns};
  }

  /// The rows of this block's slots, by its first warp.
  __device__ void make_share(const Product& p, bf16* rows) {
    NormRow<1> row(0);
    const bool norm = is_norm(p);
    const int first = warp_ == 0 ? static_cast<int>(blockIdx.x) : a_.slots;
    if (norm && first < a_.slots) row.load_norm(p.norm, p.columns);
    grid_.wait();
#pragma unroll 1
    for (int slot = first; slot < a_.slots; slot += static_cast<int>(gridDim.x)) {
      load_row(p, slot, row);
      if (norm) row.normalise(row.moments(p.columns), p.columns);
      row.store(rows + slot * p.columns, p.columns);
    }
  }

  /// This block's share of the heads of all slots; a head by one warp where that keeps all warps busy, else
  /// by all warps of a block.
  __device__ void combine_share(const AttentionPlan& plan, bf16* rows) {
    const AttentionShape& shape = plan.shape;
    const int count = a_.slots * shape.heads, blocks = static_cast<int>(gridDim.x);
    const bool by_block = count < 4 * blocks;
    const int first = static_cast<int>(blockIdx.x) + (by_block ? 0 : warp_ * blocks);
    const int step = blocks * (by_block ? 1 : kConsumerWarps);
#pragma unroll 1
    for (int i = first; i < count; i += step) {
      const int slot = i / shape.heads, head = i % shape.heads;
      bf16* to = rows + slot * shape.width + head * shape.head_dim;
      if (by_block) {
        combine<true>(plan, slot, head, to);
      } else {
        combine<false>(plan, slot, head, to);
      }
    }
  }

  template <bool kByBlock>
  __device__ void combine(const AttentionPlan& plan, int slot, int head, bf16* to) {
    switch (plan.shape.head_dim) {
      case 32:
        return combine_head<1, kByBlock>(plan, slot, head, to);
      case 64:
        return combine_head<2, kByBlock>(plan, slot, head, to);
      default:
        return combine_head<4, kByBlock>(plan, slot, head, to);
    }
  }

  template <int N, bool kByBlock>
  __device__ void combine_head(const AttentionPlan& plan, int slot, int head, bf16* to) {
    const AttentionShape& shape = plan.shape;
    const int stride = partial_stride(shape);
    const int group = head / shape.group, within = head % shape.group;
    const int total = plan.tiles_before[a_.slots] * shape.groups;
    const unsigned blocks = static_cast<unsigned>(plan.blocks);
    const int tiles = plan.tiles_before[slot + 1] - plan.tiles_before[slot];
    const int begin = plan.tiles_before[slot] * shape.groups + group * tiles;
    const int first = tiles > 0 ? Share::owner(begin, total, blocks) : 0;
    const int count = tiles > 0 ? Share::owner(begin + tiles - 1, total, blocks) - first + 1 : 0;
    const float* parts = partial_result(a_, shape, slot, group, first) + within * stride;
    PartialSum<N, false> sum;
    if constexpr (!kByBlock) {
      sum.add(parts, shape.group * stride, 0, 1, count);
      sum.write_quotient(to);
    } else {
      sum.add(parts, shape.group * stride, warp_, kConsumerWarps, count);
      sum.write(sums_ + warp_ * stride);
      consumer_barrier();
      if (warp_ == 0) {
        PartialSum<N, true> all;
        all.add(sums_, stride, 0, 1, kConsumerWarps);
        all.write_quotient(to);
      }
      consumer_barrier();
    }
  }

  // ---------------------------------------------------------------- products

  /// Multiplies this warp's slots and columns of `count` tiles; leaves the sums in shared memory.
  __device__ __forceinline__ void multiply(const Product& p, const InputRows& input, int count) {
    const int column_tiles = (p.columns + kTileColumns - 1) / kTileColumns;
    const bool keeps = column_tiles <= kTogether;
    Inputs a;
    load_inputs(p, input, 0, a);
#pragma unroll 1
    for (int tile = 0; tile < count; ++tile) {
      float c[kChains][4] = {};
#pragma unroll 1
      for (int begin = 0; begin < column_tiles; begin += kTogether) {
        if (!keeps && tile + begin > 0) load_inputs(p, input, begin, a);
#pragma unroll
        for (int j = 0; j < kTogether; ++j) {
          if (begin + j >= column_tiles) break;
          multiply_tile(min(kTileColumns, p.columns - (begin + j) * kTileColumns), a[j], c);
        }
      }
      write_sums(tile, c);
    }
  }

  /// This thread's part of A for kTogether tiles of columns. Rows past the last slot are copies of its row,
  /// whose products are not stored; past the last column weights are 0.
  __device__ __forceinline__ void load_inputs(const Product& p, const InputRows& input, int begin,
                                              Inputs& a) const {
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      const bool exists = (begin + j) * kTileColumns < p.columns;
#pragma unroll
      for (int b = 0; b < kWarpBlocks; ++b) {
        const int column = (begin + j) * kTileColumns + (part_ + b * kParts) * 32 + lane_ % 4 * 8;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          a[j][b][h] = {0, 0, 0, 0};
          if (exists)
            a[j][b][h] = load_l2(input.memory + min(first_row_ + h * 8, a_.slots - 1) * input.pitch +
                                 (column < p.columns ? column : 0));
        }
      }
    }
  }

  __device__ __forceinline__ void multiply_tile(int columns, const uint4 (&a)[kWarpBlocks][2],
                                                float (&c)[kChains][4]) {
    const uint32_t row = lane_weights<kWeights>(ring_, cursor_.stage, lane_);
    mbarrier_wait(shared_address(&shared_.full[cursor_.stage]), cursor_.parity);
#pragma unroll
    for (int first = 0; first < kWarpBlocks; first += kBlocks) {
      uint4 w[kBlocks];
      load_weights<kWeights>(row, part_ + first * kParts, kParts, columns, w);
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const uint4 low = a[first + b][0], high = a[first + b][1];
        multiply_add(c[2 * b % kChains], {low.x, high.x, low.y, high.y}, w[b].x, w[b].y);
        multiply_add(c[(2 * b + 1) % kChains], {low.z, high.z, low.w, high.w}, w[b].z, w[b].w);
      }
    }
    mbarrier_arrive_warp(shared_address(&shared_.empty[cursor_.stage]));
    cursor_.advance(a_.stages);
  }

  __device__ void write_sums(int tile, const float (&c)[kChains][4]) const {
    float* to = sums_ + (tile * kParts + part_) * a_.slots * kTileRows + lane_ % 4 * 2;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int slot = first_row_ + h * 8;
      if (slot >= a_.slots) continue;
      float2 sum{0, 0};
#pragma unroll
      for (int i = 0; i < kChains; ++i) sum.x += c[i][2 * h], sum.y += c[i][2 * h + 1];
      *reinterpret_cast<float2*>(to + slot * kTileRows) = sum;
    }
  }

  int part_, first_row_;  // of the warp's columns; of A, of this thread
  int rows_buffer_ = 0;
};

#endif
}  // namespace perceiver::kernels::cuda
