// The consumers of the fused decode step for several slots: 8 warps that take weights and cache rows from the
// ring, with a grid barrier between phases.
//
// A product multiplies the block's tiles of 8 outputs with the inputs of all slots on the tensor cores: slots
// are the rows of A, padded to kSlots, outputs the columns of B. The columns of a tile are divided among the
// warps in blocks of 32; within a block a thread's 8 neighbouring elements serve as its share of two k16
// steps, in A and B alike, so that both are read in 16-byte accesses. The sums of the warps are added in warp
// order. For up to 8 slots every block normalises or combines the inputs itself, into shared memory; for more
// slots, and where attention has many partials, each block computes its share and publishes it in the
// workspace.
#pragma once

#include "kernels/cuda/decode/aside.cuh"
#include "kernels/cuda/decode/attention.cuh"
#include "kernels/cuda/decode/combine.cuh"
#include "kernels/cuda/decode/narrow_weights.cuh"
#include "kernels/cuda/decode/norm_row.cuh"
#include "kernels/cuda/decode/phase.cuh"
#include "kernels/cuda/decode/single_slot_epilogue.cuh"
#include "kernels/cuda/decode/work_split.cuh"
#include "kernels/cuda/support/activation.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

/// Where the rows of inputs are: in shared memory or in the workspace.
struct InputRows {
  const bf16* memory;
  uint32_t shared;  // address; 0: in the workspace
  int pitch;        // bytes
};

/// kSlots: 8, 16, 32 or 64, at least the slots of the step.
template <int kSlots, DType kWeights>
class MultiSlotConsumer : public RoleRegisters {
  static constexpr int kHalves = kSlots / 8;  // of the 16 rows of an A
  static constexpr int kRowTiles = kSlots < 16 ? 1 : kSlots / 16;
  static constexpr int kChains = kSlots == 8 ? 4 : 1;                       // of dependent products
  static constexpr int kTogether = kSlots == 8 ? 4 : kSlots == 16 ? 2 : 1;  // tile columns whose A is held
  static constexpr int kBlocks = kTileColumns / 32 / kConsumerWarps;        // of 32 columns, of a warp
  static constexpr int kPassTiles = 64 / kSlots;
  static constexpr bool kHeld = kSlots == 8;  // weights are in registers before the inputs arrive
  // What the outputs need besides their sums is loaded before the products, unless these need all registers.
  static constexpr bool kLateOperands = kSlots == 64;

 public:
  static constexpr bool kPhaseInShared = kSlots >= 16;

  __device__ MultiSlotConsumer(const DecodeArguments& a, DecodeShared& shared, unsigned char* memory,
                               const DecodeLayout& layout)
      : a_(a),
        shared_(shared),
        grid_(a, shared),
        rows_(reinterpret_cast<bf16*>(memory + layout.rows)),
        sums_(reinterpret_cast<float*>(memory + layout.sums)),
        ring_(shared_address(memory + layout.ring)),
        thread_(static_cast<int>(threadIdx.x)),
        warp_(thread_ / 32),
        lane_(thread_ % 32),
        slot_(thread_ / 4 % a.slots),
        tile_in_pass_(thread_ / 4 / a.slots),
        flag_(kHeld ? shared.first_flag : 0) {
    if (!kHeld) return;
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
    if (!kHeld || !attended) grid_.arrive();
  }
  __device__ void swap_latents() { latents_buffer_ ^= 1; }
  __device__ void end() {
    if (kHeld && threadIdx.x == 0) end_step(a_);
  }

  __device__ __forceinline__ void product(const Product& p, const AttentionPlan& plan) {
    const Share tiles((p.rows + kTileRows - 1) / kTileRows);
    if constexpr (kHeld) return held_product(p, plan, tiles);
    OutputPair result;
    if (!kLateOperands) result = load_operands(p, plan, tiles.begin, min(kPassTiles, tiles.end - tiles.begin));
    const InputRows input = prepare_input(p, plan, tiles);
    if (tiles.begin == tiles.end) return;
    uint4 a[kTogether][kBlocks][kHalves];  // this thread's part of A
    load_inputs(p, input, 0, a);           // on every path, or its registers would be kept for all phases
#pragma unroll 1
    for (int first = tiles.begin; first < tiles.end; first += kPassTiles) {
      if (first > tiles.begin) {
        consumer_barrier();  // the sums have been read
        if (!kLateOperands) result = load_operands(p, plan, first, min(kPassTiles, tiles.end - first));
      }
      multiply(p, input, min(kPassTiles, tiles.end - first), a);
      if (kLateOperands) result = load_operands(p, plan, first, min(kPassTiles, tiles.end - first));
      consumer_barrier();
      if (result.valid) write_outputs(p, plan, result, total(result.tile));
    }
  }

  __device__ __forceinline__ void attention(const Product& p, const AttentionPlan& plan) {
    DecodeAttention<false, kHeld, kSlots >= 16> work(a_, shared_, ring_, sums_, partials_buffer_, p.cache, plan,
                                                     {.partial_flag = flag_});
    grid_.wait();
    work.run(cursor_);
    if (kHeld) {
      if (plan.shape.warps > 1) consumer_barrier();  // the sums of warps have been read
      ++flag_;
      combine_pieces(p.kv_index > 0, plan);
    }
  }

 private:
  using Input = ProductInput;
  using Output = ProductOutput;

  /// Two neighbouring outputs of a slot, which this thread writes.
  struct OutputPair {
    bool valid = false;
    int tile, row;  // tile: within the pass
    float2 bias{0, 0}, rotation{1, 0}, residual{0, 0};
    float2 scale{1, 1};  // of weights of eight bits
  };

  __device__ bool active(int slot) const {
    return shared_.self.rows[slot] > 0;
  }
  __device__ float* latents() const {
    return a_.latents[latents_buffer_];
  }

  /// With few slots, of the number of warps for each: 4, 2 or 1.
  __device__ int log_slot_warps() const { return 3 - (32 - __clz(a_.slots - 1)); }

  // ------------------------------------------------------------------ inputs

  /// Waits for the previous phase and returns where the inputs are.
  __device__ InputRows prepare_input(const Product& p, const AttentionPlan& plan, const Share& tiles) {
    if (p.input == Input::hidden) {
      grid_.wait();
      return {a_.hidden, 0, p.columns * 2};
    }
    bf16* rows = a_.rows[rows_buffer_];
    rows_buffer_ ^= 1;
    if (p.input == Input::attended) {
      grid_.wait();
      combine_share(plan, rows);
    } else {
      make_rows(p, warp_ == 0 ? static_cast<int>(blockIdx.x) : a_.slots, static_cast<int>(gridDim.x), rows,
                p.columns);
    }
    grid_.arrive();
    grid_.wait();
    return {rows, 0, p.columns * 2};
  }

  /// The rows of slots `first`, first + step, ...
  __device__ void make_rows(const Product& p, int first, int step, bf16* to, int pitch) {
    NormRow<1> row(0);
    const bool norm = is_norm(p);
    if (norm && first < a_.slots) row.load_norm(p.norm, p.columns);
    grid_.wait();
#pragma unroll 1
    for (int slot = first; slot < a_.slots; slot += step) {
      load_row(p, slot, row);
      if (norm) row.normalise(row.moments(p.columns), p.columns);
      row.store(to + slot * pitch, p.columns);
    }
  }

  /// With few slots: the rows of all slots, into shared memory, each by kWarps warps.
  template <int kWarps>
  __device__ void make_few_rows(const Product& p) {
    const int slot = warp_ / kWarps;
    NormRow<kWarps> row(warp_ % kWarps);
    const bool norm = is_norm(p), exists = slot < a_.slots;
    if (norm && exists) row.load_norm(p.norm, p.columns);
    grid_.wait();
    if (exists) {
      load_row(p, slot, row);
    } else {
      row.clear();
    }
    if (norm) {
      float2 moments = row.moments(p.columns);
      if (kWarps > 1) moments = merge_moments(moments, p.columns, row);
      row.normalise(moments, p.columns);
    }
    if (exists) row.store(rows_ + slot * (kRowPitch / 2), p.columns);
    consumer_barrier();
  }
  template <int kWarps>
  __device__ float2 merge_moments(float2 own, int columns, const NormRow<kWarps>& row) const {
    if (lane_ == 0) shared_.moments[0][warp_] = own;
    consumer_barrier();
    float2 parts[kWarps];
#pragma unroll
    for (int w = 0; w < kWarps; ++w) parts[w] = shared_.moments[0][warp_ / kWarps * kWarps + w];
    return row.merge(parts, columns);
  }

  __device__ static bool is_norm(const Product& p) {
    return p.input == Input::latent_norm || p.input == Input::embedding_norm;
  }
  template <int kWarps>
  __device__ void load_row(const Product& p, int slot, NormRow<kWarps>& row) const {
    if (p.input == Input::latent || p.input == Input::latent_norm) {
      row.load(latents() + slot * p.columns, p.columns);
    } else {
      embed(slot, row);
    }
  }

  template <int kWarps>
  __device__ void embed(int slot, NormRow<kWarps>& row) const {
    row.clear();
    if (!active(slot)) return;
    row.add(a_.token_embedding + static_cast<int64_t>(a_.token[slot]) * a_.input, a_.input);
#pragma unroll 1
    for (int t = 0; t < a_.position_tables; ++t)
      row.add(a_.position_table[t] +
                  static_cast<int64_t>(a_.table_position[slot * a_.position_tables + t]) * a_.input,
              a_.input);
    row.round();
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

  /// Warps that combine a piece together, so that each has some 16 partials.
  __device__ int piece_warps() const { return 1 << log_slot_warps(); }
  __device__ HeadPiece first_piece(const AttentionPlan& plan) const {
    const Share pieces(a_.slots * (plan.shape.width / 8));
    return piece_or_none(plan, pieces.begin + warp_ / piece_warps(), pieces);
  }
  __device__ HeadPiece piece_or_none(const AttentionPlan& plan, int i, const Share& pieces) const {
    if (i >= pieces.end) return {nullptr, 0, 0};
    return find_piece<false>(a_, plan, i);
  }

  /// This block's share of the channels of all slots, 8 at a time.
  __device__ __forceinline__ void combine_pieces(bool cross, const AttentionPlan& plan) {
    const Share pieces(a_.slots * (plan.shape.width / 8));
    const int warps = piece_warps(), together = kConsumerWarps / warps;
    HeadPiece piece = shared_.pieces[cross ? 1 : 0][warp_];
    float4* parts = reinterpret_cast<float4*>(reinterpret_cast<unsigned char*>(sums_) +
                                              DecodeLayout::merge_offset(a_.slots));
#pragma unroll 1
    for (int first = pieces.begin, buffer = 0; first < pieces.end; first += together, buffer ^= 1) {
      const int i = first + warp_ / warps;
      PairSum sum = combine_piece<3>(plan.shape, piece, lane_, warp_ % warps * 8, warps * 8, flag_ - 1);
      if (warps > 1) sum = merge_warps(sum, parts + buffer * kMergeQuadruples, warp_, lane_, warps);
      if (i < pieces.end && warp_ % warps == 0 && lane_ < 4 * kReplicas)
        publish(a_.flagged.attended + lane_ / 4 * a_.flagged.attended_stride + i * 4 + lane_ % 4, quotient(sum),
                flag_);
      if (first + together < pieces.end) piece = piece_or_none(plan, i + together, pieces);
    }
  }

  // ---------------------------------------------------------------- products

  /// Multiplies this warp's columns of `count` tiles; leaves the sums in shared memory, [tile, warp, slot,
  /// 8].
  __device__ __forceinline__ void multiply(const Product& p, const InputRows& input, int count,
                                           uint4 (&a)[kTogether][kBlocks][kHalves]) {
    const int column_tiles = (p.columns + kTileColumns - 1) / kTileColumns;
    const bool keeps = column_tiles <= kTogether;
#pragma unroll 1
    for (int tile = 0; tile < count; ++tile) {
      float c[kChains][kRowTiles][4] = {};
#pragma unroll 1
      for (int begin = 0; begin < column_tiles; begin += kTogether) {
        if (!keeps) load_inputs(p, input, begin, a);
#pragma unroll
        for (int j = 0; j < kTogether; ++j) {
          if (begin + j >= column_tiles) break;
          multiply_tile(min(kTileColumns, p.columns - (begin + j) * kTileColumns), a[j], c);
        }
      }
      write_sums(tile, c);
    }
  }

  using Inputs = uint4[kTogether][kBlocks][kHalves];

  __device__ __forceinline__ void held_product(const Product& p, const AttentionPlan& plan,
                                               const Share& tiles) {
    const Passes passes(p);
    const bool by_columns = passes.column_tiles > 1;
    int count = min(passes.tiles, tiles.end - tiles.begin);
    int stages = by_columns && count > 0 ? min(kHeldStages, passes.column_tiles) : count;
    uint4 w[2][kBlocks];
    load_two(p, stages, 0, w);
    OutputPair result = load_operands(p, plan, tiles.begin, count);
    if (p.input == Input::hidden) {
      grid_.wait();
    } else if (p.input != Input::attended) {
      if (count == 0) {
        grid_.wait();
      } else if (log_slot_warps() == 2) {
        make_few_rows<4>(p);
      } else if (log_slot_warps() == 1) {
        make_few_rows<2>(p);
      } else {
        make_few_rows<1>(p);
      }
    }
    if (count == 0) return;
    Inputs a;
    if (p.input == Input::hidden) {
      load_hidden(p, 0, a);
    } else if (p.input == Input::attended) {
      receive_attended(p, a);
    } else {
      read_rows(p, a);
    }
#pragma unroll 1
    for (int first = tiles.begin;;) {
      float sums[kHeldStages][2] = {};
#pragma unroll 1
      for (int begin = 0;;) {
        if (by_columns) {
          multiply_held<true>(p, stages, begin, w, a, sums);
        } else {
          multiply_held<false>(p, stages, begin, w, a, sums);
        }
        begin += kHeldStages;
        if (begin >= passes.column_tiles) break;
        stages = min(kHeldStages, passes.column_tiles - begin);
        load_two(p, stages, begin, w);
        load_hidden(p, begin, a);
      }
      write_held_sums(count, sums);
      consumer_barrier();
      if (result.valid) write_outputs(p, plan, result, total(result.tile));
      first += passes.tiles;
      if (first >= tiles.end) return;
      consumer_barrier();  // the sums have been read
      count = min(passes.tiles, tiles.end - first);
      stages = by_columns ? min(kHeldStages, passes.column_tiles) : count;
      result = load_operands(p, plan, first, count);
      load_two(p, stages, 0, w);
      if (passes.column_tiles > kHeldStages) load_hidden(p, 0, a);
    }
  }

  __device__ __forceinline__ void load_two(const Product& p, int stages, int begin,
                                           uint4 (&w)[2][kBlocks]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) load_held(p, i < stages, begin + i, w[i]);
  }

  /// The weights of the next stage; zeros where there is none.
  __device__ __forceinline__ void load_held(const Product& p, bool exists, int column_tile,
                                            uint4 (&w)[kBlocks]) {
    if (!exists) {
#pragma unroll
      for (uint4& block : w) block = {};
      return;
    }
    const int columns = p.columns > kTileColumns ? p.columns - column_tile * kTileColumns : p.columns;
    const uint32_t row =
        ring_ + static_cast<uint32_t>(cursor_.stage * kStageBytes + lane_ / 4 * kWeightPitch<kWeights> +
                                      lane_ % 4 * 8 * kWeightBytes<kWeights>);
    mbarrier_wait(shared_address(&shared_.full[cursor_.stage]), cursor_.parity);
    cuda::load_weights<kWeights>(row, warp_, kConsumerWarps, columns, w);
    mbarrier_arrive_warp(shared_address(&shared_.empty[cursor_.stage]));
    cursor_.advance(a_.stages);
  }

  /// This thread's first column of a block of 32, or 0 where there are no columns, whose weights are 0.
  __device__ int column_of(int block, int columns) const {
    const int column = (warp_ + block * kConsumerWarps) * 32 + lane_ % 4 * 8;
    return column < columns ? column : 0;
  }
  /// This thread's part of A, whose rows past the last slot are copies of its row: from shared memory,
  __device__ __forceinline__ void read_rows(const Product& p, Inputs& a) const {
    const uint32_t row = shared_address(rows_) + static_cast<uint32_t>(min(lane_ / 4, a_.slots - 1) * kRowPitch);
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const uint4 x = load_shared(row + static_cast<uint32_t>(column_of(b, p.columns)) * 2);
#pragma unroll
      for (int j = 0; j < kTogether; ++j) a[j][b][0] = x;
    }
  }
  /// from the hidden layer, kHeldStages tiles of columns from `begin` on,
  __device__ __forceinline__ void load_hidden(const Product& p, int begin, Inputs& a) const {
    const bf16* row = a_.hidden + min(lane_ / 4, a_.slots - 1) * p.columns + begin * kTileColumns;
    const int columns = p.columns - begin * kTileColumns;
#pragma unroll
    for (int j = 0; j < kTogether; ++j)
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const int column = column_of(b, columns - j * kTileColumns);
        a[j][b][0] = load_l2(row + (j * kTileColumns < columns ? j * kTileColumns + column : column));
      }
  }
  /// from the flagged buffer.
  __device__ __forceinline__ void receive_attended(const Product& p, Inputs& a) const {
    const int slot = min(lane_ / 4, a_.slots - 1);
    const uint64_t* from = a_.flagged.attended +
                           static_cast<int>(blockIdx.x) % kReplicas * a_.flagged.attended_stride +
                           slot * (p.columns / 2);
    const uint64_t* places[2 * kBlocks];
    uint2 words[2 * kBlocks];
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      places[2 * b] = from + column_of(b, p.columns) / 2;
      places[2 * b + 1] = places[2 * b] + 2;
    }
    receive(places, flag_ - 1, words);
#pragma unroll
    for (int j = 0; j < kTogether; ++j)
#pragma unroll
      for (int b = 0; b < kBlocks; ++b)
        a[j][b][0] = {words[2 * b].x, words[2 * b].y, words[2 * b + 1].x, words[2 * b + 1].y};
  }

  /// Adds each tile's products to its own sums, or, `by_columns`, all of them to the first.
  template <bool kByColumns>
  __device__ __forceinline__ void multiply_held(const Product& p, int stages, int begin,
                                                uint4 (&w)[2][kBlocks], const Inputs& a,
                                                float (&sums)[kHeldStages][2]) {
#pragma unroll
    for (int i = 0; i < kHeldStages; ++i) {
      if (i >= stages) break;
      float c[kChains][4] = {};
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const uint4 x = a[kByColumns ? i : 0][b][0];
        multiply_add(c[2 * b % kChains], {x.x, 0, x.y, 0}, w[i % 2][b].x, w[i % 2][b].y);
        multiply_add(c[(2 * b + 1) % kChains], {x.z, 0, x.w, 0}, w[i % 2][b].z, w[i % 2][b].w);
      }
      if (i + 2 < kHeldStages) load_held(p, i + 2 < stages, begin + i + 2, w[i % 2]);
      const float2 sum{(c[0][0] + c[1][0]) + (c[2][0] + c[3][0]), (c[0][1] + c[1][1]) + (c[2][1] + c[3][1])};
      sums[kByColumns ? 0 : i][0] += sum.x, sums[kByColumns ? 0 : i][1] += sum.y;
    }
  }

  __device__ __forceinline__ void write_held_sums(int count, const float (&sums)[kHeldStages][2]) const {
    const int slot = lane_ / 4;
    if (slot >= a_.slots) return;
    float* to = sums_ + (warp_ * a_.slots + slot) * kTileRows + lane_ % 4 * 2;
#pragma unroll
    for (int i = 0; i < kHeldStages; ++i)
      if (i < count)
        *reinterpret_cast<float2*>(to + i * kConsumerWarps * a_.slots * kTileRows) = {sums[i][0], sums[i][1]};
  }

  /// This thread's part of A for kTogether tiles of columns. Rows past the last slot are copies of its row,
  /// whose products are not stored; past the last column there are no products.
  __device__ __forceinline__ void load_inputs(const Product& p, const InputRows& input, int begin,
                                              uint4 (&a)[kTogether][kBlocks][kHalves]) const {
    const int columns = p.columns;
    const auto load_all = [&](auto&& load) {
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        const bool exists = (begin + j) * kTileColumns < columns;
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) {
          const int column = (begin + j) * kTileColumns + (warp_ + b * kConsumerWarps) * 32 + lane_ % 4 * 8;
#pragma unroll
          for (int h = 0; h < kHalves; ++h) {
            a[j][b][h] = {0, 0, 0, 0};
            if (exists)
              a[j][b][h] = load(min(h * 8 + lane_ / 4, a_.slots - 1) * input.pitch +
                                (column < columns ? column : 0) * 2);
          }
        }
      }
    };
    if (input.shared != 0) {
      load_all([&](int offset) { return load_shared(input.shared + static_cast<uint32_t>(offset)); });
    } else {
      load_all([&](int offset) { return load_l2(input.memory + offset / 2); });
    }
  }

  __device__ __forceinline__ void multiply_tile(int columns, const uint4 (&a)[kBlocks][kHalves],
                                                float (&c)[kChains][kRowTiles][4]) {
    const uint32_t row =
        ring_ + static_cast<uint32_t>(cursor_.stage * kStageBytes + lane_ / 4 * kWeightPitch<kWeights> +
                                      lane_ % 4 * 8 * kWeightBytes<kWeights>);
    mbarrier_wait(shared_address(&shared_.full[cursor_.stage]), cursor_.parity);
    uint4 w[kBlocks];
    load_weights<kWeights>(row, warp_, kConsumerWarps, columns, w);
    mbarrier_arrive_warp(shared_address(&shared_.empty[cursor_.stage]));
    cursor_.advance(a_.stages);
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      if ((warp_ + b * kConsumerWarps) * 32 >= columns) break;
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        const uint4 low = a[b][2 * m];
        const uint4 high = kSlots == 8 ? uint4{0, 0, 0, 0} : a[b][(2 * m + 1) % kHalves];
        multiply_add(c[2 * b % kChains][m], {low.x, high.x, low.y, high.y}, w[b].x, w[b].y);
        multiply_add(c[(2 * b + 1) % kChains][m], {low.z, high.z, low.w, high.w}, w[b].z, w[b].w);
      }
    }
  }

  __device__ void write_sums(int tile, const float (&c)[kChains][kRowTiles][4]) const {
    float* to = sums_ + (tile * kConsumerWarps + warp_) * a_.slots * kTileRows + lane_ % 4 * 2;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      const int slot = h * 8 + lane_ / 4, m = h / 2, e = h % 2 * 2;
      if (slot >= a_.slots) continue;
      float2 pair{c[0][m][e], c[0][m][e + 1]};
#pragma unroll
      for (int i = 1; i < kChains; ++i) pair.x += c[i][m][e], pair.y += c[i][m][e + 1];
      *reinterpret_cast<float2*>(to + slot * kTileRows) = pair;
    }
  }

  /// The sum of the warps' sums, in warp order.
  __device__ float2 total(int tile) const {
    const float* from = sums_ + (tile * kConsumerWarps * a_.slots + slot_) * kTileRows + thread_ % 4 * 2;
    float2 sum{0, 0};
#pragma unroll
    for (int w = 0; w < kConsumerWarps; ++w) {
      const float2 part = *reinterpret_cast<const float2*>(from + w * a_.slots * kTileRows);
      sum.x += part.x, sum.y += part.y;
    }
    return sum;
  }

  // ----------------------------------------------------------------- outputs

  /// What the epilogue of the pass needs that does not depend on this step's phases: loaded before waiting
  /// for them.
  __device__ OutputPair load_operands(const Product& p, const AttentionPlan& plan, int first,
                                      int count) const {
    OutputPair r;
    r.tile = tile_in_pass_;
    r.row = (first + r.tile) * kTileRows + thread_ % 4 * 2;
    r.valid = r.tile < count && r.row < p.rows;
    if (!r.valid) return r;
    if (p.linear.bias != nullptr) {
      const bf16* bias = static_cast<const bf16*>(p.linear.bias) + r.row;
      r.bias.x = __bfloat162float(bias[0]);
      if (r.row + 1 < p.rows) r.bias.y = __bfloat162float(bias[1]);
    }
    if (is_narrow(kWeights)) {
      const float* scale = narrow_scales(p.linear, p.rows, p.columns) + r.row;
      r.scale.x = scale[0];
      if (r.row + 1 < p.rows) r.scale.y = scale[1];
    }
    if (p.output == Output::attention && active(slot_)) load_rotation(p, plan, r);
    if (p.output == Output::latent_add) load_residual(p, r);
    return r;
  }

  /// Cosine and sine, where the outputs are rotated channels.
  __device__ void load_rotation(const Product& p, const AttentionPlan& plan, OutputPair& r) const {
    const AttentionShape& shape = plan.shape;
    const int column = r.row < p.query_rows ? r.row : r.row - p.query_rows;
    const int head = column / shape.head_dim, channel = column % shape.head_dim;
    if (column >= shape.width || head >= shape.rotary_heads || channel >= 2 * shape.bands) return;
    const int position = shared_.position[slot_] + p.position_offset;
    const int64_t entry = static_cast<int64_t>(abs(position)) * shape.bands + channel / 2;
    r.rotation = {shape.cosine[entry], position < 0 ? -shape.sine[entry] : shape.sine[entry]};
  }

  /// All products whose outputs are the latents are divided alike, so this thread wrote what it loads, and
  /// need not wait for other blocks.
  __device__ void load_residual(const Product& p, OutputPair& r) const {
    r.residual = __ldcg(reinterpret_cast<const float2*>(latents() + slot_ * p.rows + r.row));
  }

  __device__ void write_outputs(const Product& p, const AttentionPlan& plan, const OutputPair& r,
                                float2 x) const {
    if (is_narrow(kWeights)) x.x *= r.scale.x, x.y *= r.scale.y;
    x.x += r.bias.x + r.residual.x, x.y += r.bias.y + r.residual.y;
    if (p.output == Output::hidden || p.output == Output::latent_activated)
      x = {activated(p.activation, x.x), activated(p.activation, x.y)};
    switch (p.output) {
      case Output::latent:
      case Output::latent_add:
        *reinterpret_cast<float2*>(latents() + slot_ * p.rows + r.row) = x;
        return;
      case Output::latent_activated:
        *reinterpret_cast<float2*>(a_.latents[latents_buffer_ ^ 1] + slot_ * p.rows + r.row) = x;
        return;
      case Output::hidden:
        *reinterpret_cast<uint32_t*>(a_.hidden + slot_ * p.rows + r.row) = pack(x.x, x.y);
        return;
      case Output::logits:
        if (!active(slot_)) return;
        a_.logits[slot_ * p.rows + r.row] = x.x;
        if (r.row + 1 < p.rows) a_.logits[slot_ * p.rows + r.row + 1] = x.y;
        return;
      case Output::attention:
        return write_attention_outputs(
            p, plan, r, {x.x * r.rotation.x - x.y * r.rotation.y, x.y * r.rotation.x + x.x * r.rotation.y});
    }
  }

  __device__ void write_attention_outputs(const Product& p, const AttentionPlan& plan, const OutputPair& r,
                                          float2 x) const {
    const AttentionShape& shape = plan.shape;
    if (r.row < p.query_rows) {
      const float scale = kLog2E * rsqrtf(static_cast<float>(shape.head_dim));
      *reinterpret_cast<float2*>(a_.queries + slot_ * shape.width + r.row) = {x.x * scale, x.y * scale};
      return;
    }
    if (!active(slot_)) return;
    const int64_t row = static_cast<int64_t>(slot_) * shape.ring_rows + plan.new_row[slot_];
    *reinterpret_cast<uint32_t*>(p.cache + row * (2 * shape.width) + r.row - p.query_rows) = pack(x.x, x.y);
  }

  const DecodeArguments& a_;
  DecodeShared& shared_;
  GridBarrier grid_;
  bf16* rows_;
  float* sums_;
  uint32_t ring_;
  int thread_, warp_, lane_;
  int slot_, tile_in_pass_;  // of the outputs that this thread writes
  uint32_t flag_;            // with few slots: of what this phase publishes
  int latents_buffer_ = 0, rows_buffer_ = 0, partials_buffer_ = 0;
  RingCursor cursor_;
};

#endif
}  // namespace perceiver::kernels::cuda
