// The consumers of the fused decode step for 5 to 8 slots. With so few, the chain of the phases counts as
// much as the bytes: a warp takes four stages of its weights into registers before it waits for the inputs;
// split-KV partials and the combined results of attention go through flagged buffers, without a barrier;
// otherwise a barrier over the grid lies between phases.
//
// A product multiplies the block's tiles of 8 outputs with the inputs of all slots on the tensor cores: slots
// are rows 0 to 7 of A, outputs the columns of B. The columns of a tile are divided among the warps in blocks
// of 32; within a block a thread's 8 neighbouring elements serve as its share of two k16 steps, in A and B
// alike, so that both are read in 16-byte accesses. The sums of the warps are added in warp order. Every
// block normalises the latents of all slots itself, into shared memory, a warp each.
#pragma once

#include "kernels/cuda/decode/attention.cuh"
#include "kernels/cuda/decode/combine.cuh"
#include "kernels/cuda/decode/held_products.cuh"
#include "kernels/cuda/decode/slot_consumer.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

template <DType kWeights>
class FewSlotsConsumer : public SlotConsumer {
 public:
  __device__ FewSlotsConsumer(const DecodeArguments& a, DecodeShared& shared, unsigned char* memory,
                              const DecodeLayout& layout)
      : SlotConsumer(a, shared, memory, layout, a.slots),
        rows_(reinterpret_cast<bf16*>(memory + layout.rows)),
        flag_(shared.first_flag) {
    if (lane_ == 0) {
      shared.pieces[0][warp_] = first_piece(shared.self);
      shared.pieces[1][warp_] = first_piece(shared.cross);
    }
    __syncwarp();
    if (shared.clears) clear_words(a, grid_);
  }

  /// Ends a phase whose results other blocks read in the next.
  __device__ void arrive(bool attended) {
    ++flag_;
    if (!attended) grid_.arrive();
  }
  __device__ void end() {
    if (thread_ == 0) end_step(a_);
  }

  __device__ __forceinline__ void attention(const Product& p, const AttentionPlan& plan) {
    if (a_.cache_bytes == 1) {
      attend<DType::e4m3>(p, plan);
    } else {
      attend<DType::bf16>(p, plan);
    }
    if (plan.shape.warps > 1) consumer_barrier();  // the sums of warps have been read
    ++flag_;
    combine(p.kv_index > 0, plan);
  }

  __device__ __forceinline__ void product(const Product& p, const AttentionPlan& plan) {
    const Share tiles((p.rows + kTileRows - 1) / kTileRows);
    const Passes passes(p);
    const bool by_columns = passes.column_tiles > 1;
    int count = min(passes.tiles, tiles.end - tiles.begin);
    int stages = by_columns && count > 0 ? min(kHeldStages, passes.column_tiles) : count;
    Weights w[kHeldStages];
    take_weights(p, stages, 0, w);
    OutputPair results[] = {load_pair(p, plan, tiles.begin, count)};
    wait_for_inputs(p, count > 0);
    if (count == 0) return;
    Inputs x;
    take_inputs(p, x);
#pragma unroll 1
    for (int first = tiles.begin;;) {
      float sums[kHeldStages][2] = {};
#pragma unroll 1
      for (int begin = 0;;) {
        if (by_columns) {
          multiply<true>(stages, w, x, sums);
        } else {
          multiply<false>(stages, w, x, sums);
        }
        begin += kHeldStages;
        if (begin >= passes.column_tiles) break;
        stages = min(kHeldStages, passes.column_tiles - begin);
        take_weights(p, stages, begin, w);
        load_hidden(p, begin, x);
      }
      write_sums(count, sums);
      consumer_barrier();
      if (results[0].valid)
        write_outputs<kWeights, kConsumerWarps>(p, plan, results, latents(),
                                                [&](int row) { return a_.hidden + slot_ * p.rows + row; });
      first += passes.tiles;
      if (first >= tiles.end) return;
      consumer_barrier();  // the sums have been read
      count = min(passes.tiles, tiles.end - first);
      stages = by_columns ? min(kHeldStages, passes.column_tiles) : count;
      results[0] = load_pair(p, plan, first, count);
      take_weights(p, stages, 0, w);
      if (passes.column_tiles > kHeldStages) load_hidden(p, 0, x);
    }
  }

 private:
  template <DType kCache>
  __device__ __forceinline__ void attend(const Product& p, const AttentionPlan& plan) {
    DecodeAttention<kCache, 0, true, false> work(a_, shared_, ring_, sums_, partials_buffer_, p.cache, plan,
                                                 {.partial_flag = flag_});
    grid_.wait();
    work.run(cursor_);
  }

  static constexpr int kChains = 4;  // of dependent products
  /// This thread's part of B, and of A for tiles of columns; rows past the last slot are copies of its row,
  /// whose products are not stored.
  using Weights = uint4[kHeldBlocks];
  using Inputs = uint4[kHeldStages][kHeldBlocks];

  __device__ int row_of_lane() const {
    return min(lane_ / 4, a_.slots - 1);
  }

  // ------------------------------------------------------------------ inputs

  /// The results of attention are waited for where they are received.
  __device__ __forceinline__ void wait_for_inputs(const Product& p, bool needed) {
    if (p.input == Input::attended) return;
    if (p.input == Input::hidden || !needed) return grid_.wait();
    make_rows(p);
  }

  /// Waits, and makes the rows of all slots in shared memory, each by a warp.
  __device__ void make_rows(const Product& p) {
    const int slot = warp_;
    NormRow<1> row(0);
    const bool norm = is_norm(p), exists = slot < a_.slots;
    if (norm && exists) row.load_norm(p.norm, p.columns);
    grid_.wait();
    if (exists) {
      load_row(p, slot, row);
    } else {
      row.clear();
    }
    if (norm) {
      row.normalise(row.moments(p.columns), p.columns);
    }
    if (exists) row.store(p.columns, [&](int column) { return rows_ + slot * (kRowPitch / 2) + column; });
    consumer_barrier();
  }

  __device__ __forceinline__ void take_inputs(const Product& p, Inputs& x) const {
    if (p.input == Input::hidden) {
      load_hidden(p, 0, x);
    } else if (p.input == Input::attended) {
      receive_attended(p, x);
    } else {
      read_rows(p, x);
    }
  }

  /// This thread's first column of a block of 32, or 0 where there are no columns, whose weights are 0.
  __device__ int column_of(int block, int columns) const {
    const int column = (warp_ + block * kConsumerWarps) * 32 + lane_ % 4 * 8;
    return column < columns ? column : 0;
  }

  /// One tile of columns, as the first of x; the others are copies, since registers that are set under a
  /// condition would be kept for all phases.
  __device__ static void set_all(int block, const uint4& value, Inputs& x) {
#pragma unroll
    for (int j = 0; j < kHeldStages; ++j) x[j][block] = value;
  }

  __device__ __forceinline__ void read_rows(const Product& p, Inputs& x) const {
    const uint32_t row = shared_address(rows_) + static_cast<uint32_t>(row_of_lane() * kRowPitch);
#pragma unroll
    for (int b = 0; b < kHeldBlocks; ++b)
      set_all(b, load_shared(row + static_cast<uint32_t>(column_of(b, p.columns)) * 2), x);
  }

  __device__ __forceinline__ void receive_attended(const Product& p, Inputs& x) const {
    const uint64_t* from = a_.flagged.attended + row_of_lane() * (p.columns / 2);
    const uint64_t* places[2 * kHeldBlocks];
    uint2 words[2 * kHeldBlocks];
#pragma unroll
    for (int b = 0; b < kHeldBlocks; ++b) {
      places[2 * b] = from + column_of(b, p.columns) / 2;
      places[2 * b + 1] = places[2 * b] + 2;
    }
    receive(places, flag_ - 1, words);
#pragma unroll
    for (int b = 0; b < kHeldBlocks; ++b)
      set_all(b, {words[2 * b].x, words[2 * b].y, words[2 * b + 1].x, words[2 * b + 1].y}, x);
  }

  /// kHeldStages tiles of columns from `begin` on.
  __device__ __forceinline__ void load_hidden(const Product& p, int begin, Inputs& x) const {
    const bf16* row = a_.hidden + row_of_lane() * p.columns + begin * kTileColumns;
    const int columns = p.columns - begin * kTileColumns;
#pragma unroll
    for (int j = 0; j < kHeldStages; ++j)
#pragma unroll
      for (int b = 0; b < kHeldBlocks; ++b) {
        const int column = column_of(b, columns - j * kTileColumns);
        x[j][b] = load_l2(row + (j * kTileColumns < columns ? j * kTileColumns + column : column));
      }
  }

  // ---------------------------------------------------------------- products

  /// Most threads have no outputs, and need not wait for those that do.
  __device__ __forceinline__ OutputPair load_pair(const Product& p, const AttentionPlan& plan, int first,
                                                  int count) const {
    if (first_tile_ >= count) return {};
    return load_operands<kWeights>(p, plan, first, count, first_tile_);
  }

  /// The weights of the next `stages`; zeros for the others.
  __device__ __forceinline__ void take_weights(const Product& p, int stages, int begin,
                                               Weights (&w)[kHeldStages]) {
#pragma unroll
    for (int i = 0; i < kHeldStages; ++i) take_stage(p, i < stages, begin + i, w[i]);
  }

  __device__ __forceinline__ void take_stage(const Product& p, bool exists, int column_tile, Weights& w) {
    if (!exists) {
#pragma unroll
      for (uint4& block : w) block = {};
      return;
    }
    const int columns = p.columns > kTileColumns ? p.columns - column_tile * kTileColumns : p.columns;
    mbarrier_wait(shared_address(&shared_.full[cursor_.stage]), cursor_.parity);
    load_weights<kWeights>(lane_weights<kWeights>(ring_, cursor_.stage, lane_), warp_, kConsumerWarps,
                           columns, w);
    mbarrier_arrive_warp(shared_address(&shared_.empty[cursor_.stage]));
    cursor_.advance(a_.stages);
  }

  /// Adds each tile's products to its own sums, or, kByColumns, all of them to the first.
  template <bool kByColumns>
  __device__ static __forceinline__ void multiply(int stages, const Weights (&w)[kHeldStages],
                                                  const Inputs& x, float (&sums)[kHeldStages][2]) {
#pragma unroll
    for (int i = 0; i < kHeldStages; ++i) {
      if (i >= stages) break;
      float c[kChains][4] = {};
#pragma unroll
      for (int b = 0; b < kHeldBlocks; ++b) {
        const uint4 a = x[kByColumns ? i : 0][b];
        multiply_add(c[2 * b % kChains], {a.x, 0, a.y, 0}, w[i][b].x, w[i][b].y);
        multiply_add(c[(2 * b + 1) % kChains], {a.z, 0, a.w, 0}, w[i][b].z, w[i][b].w);
      }
      sums[kByColumns ? 0 : i][0] += (c[0][0] + c[1][0]) + (c[2][0] + c[3][0]);
      sums[kByColumns ? 0 : i][1] += (c[0][1] + c[1][1]) + (c[2][1] + c[3][1]);
    }
  }

  /// In shared memory, [tile, warp, slot, 8].
  __device__ __forceinline__ void write_sums(int count, const float (&sums)[kHeldStages][2]) const {
    const int slot = lane_ / 4;
    if (slot >= a_.slots) return;
    float* to = sums_ + (warp_ * a_.slots + slot) * kTileRows + lane_ % 4 * 2;
#pragma unroll
    for (int i = 0; i < kHeldStages; ++i)
      if (i < count)
        *reinterpret_cast<float2*>(to + i * kConsumerWarps * a_.slots * kTileRows) = {sums[i][0], sums[i][1]};
  }

  // ------------------------------------------------------- combining attention

  /// Of all slots; each piece by a warp, which receives some 16 partials.
  __device__ Share pieces_of(const AttentionPlan& plan) const {
    return Share(a_.slots * (plan.shape.width / 8));
  }
  __device__ HeadPiece first_piece(const AttentionPlan& plan) const {
    const Share pieces = pieces_of(plan);
    return piece_or_none(plan, pieces.begin + warp_, pieces);
  }
  __device__ HeadPiece piece_or_none(const AttentionPlan& plan, int i, const Share& pieces) const {
    if (i >= pieces.end) return {nullptr, 0, 0};
    return find_piece<false>(a_, plan, i);
  }

  /// This block's share of the pieces.
  __device__ __forceinline__ void combine(bool cross, const AttentionPlan& plan) {
    const Share pieces = pieces_of(plan);
    HeadPiece piece = shared_.pieces[cross ? 1 : 0][warp_];
#pragma unroll 1
    for (int i = pieces.begin + warp_; i < pieces.end; i += kConsumerWarps) {
      const PairSum sum = combine_piece<3>(plan.shape, piece, lane_, 0, 8, flag_ - 1);
      if (lane_ < 4) publish(a_.flagged.attended + i * 4 + lane_, quotient(sum), flag_);
      piece = piece_or_none(plan, i + kConsumerWarps, pieces);
    }
  }

  bf16* rows_;
  uint32_t flag_;  // of what this phase publishes
};

#endif
}  // namespace perceiver::kernels::cuda
