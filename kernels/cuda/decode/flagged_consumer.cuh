// The consumers of the fused decode step where all vectors go through flagged buffers, with up to 4 slots.
// What counts is the latency of a phase, from receiving the words that other blocks published before it to
// publishing its own: a warp receives only the columns that it multiplies, its weights are in registers by
// then, and the warps meet only for the sums of LayerNorm. Their sums of products go to the epilogue
// (flagged_epilogue.cuh).
//
// Columns are divided among warps as in few_slots_consumer.cuh, blocks of 32 out of every tile of 1024; a
// lane receives 4 neighbouring ones of a tile and stores them, as bf16, in the warp's own part of shared
// memory. Attention's split-KV partials are combined in a phase of their own, 8 channels at a time.
#pragma once

#include "kernels/cuda/decode/combine.cuh"
#include "kernels/cuda/decode/flagged_epilogue.cuh"
#include "kernels/cuda/decode/head_attention.cuh"
#include "kernels/cuda/decode/held_products.cuh"
#include "kernels/cuda/decode/program.cuh"
#include "kernels/cuda/decode/table_attention.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

/// kSlots: of the step. kByTable: the context is kept as tokens, with one slot.
template <int kSlots, bool kByTable, DType kWeights, DType kCache>
class FlaggedConsumer : public RoleRegisters {
  using Products = HeldProducts<kWeights, kSlots>;
  static constexpr int kSums = kSlots * kPassSums;
  static constexpr bool kOneSlot = kSlots == 1;

 public:
  static constexpr bool kAsideForContext = kByTable;

  __device__ FlaggedConsumer(const DecodeArguments& a, DecodeShared& shared, unsigned char* memory,
                             const DecodeLayout& layout)
      : a_(a),
        shared_(shared),
        sums_(reinterpret_cast<float*>(memory + layout.sums)),
        table_(memory + layout.table),
        ring_(shared_address(memory + layout.ring)),
        warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32),
        inputs_(reinterpret_cast<unsigned char*>(memory + layout.rows) +
                warp_ * DecodeLayout::warp_input_bytes(kSlots)),
        products_(inputs_),
        flag_(shared.first_flag) {
    if (lane_ == 0) {
      for (int s = 0; s < kSlots; ++s) shared.flagged_norm.centers[s][warp_] = 0;
      shared.pieces[0][warp_] = piece_or_none(shared.self, first_piece(shared.self));
      shared.pieces[1][warp_] = piece_or_none(shared.cross, first_piece(shared.cross));
    }
    __syncwarp();
    if (!shared.clears) return;
    GridBarrier grid(a, shared);
    clear_words(a, grid);
  }

  /// Ends a phase.
  __device__ void arrive(bool) { ++flag_; }
  __device__ void swap_latents() {}
  __device__ void end() {
    wait_for_epilogue();
    consumer_barrier();
    if (threadIdx.x == 0) end_step(a_);
  }

  __device__ __forceinline__ void product(const Product& p, const AttentionPlan&) {
    const Share tiles = Share::of_grid((p.rows + kTileRows - 1) / kTileRows, a_.grid_reciprocal);
    if (tiles.begin == tiles.end) {
      skip(p);
    } else {
      multiply(p, tiles);
    }
    if (writes_latents(p)) latents_buffer_ ^= 1;
  }

  __device__ __forceinline__ void attention(const Product& p, const AttentionPlan& plan) {
    const FlaggedInputs inputs{new_rows(a_, p.kv_index), p.kv_index == 0 ? flag_ - 1 : shared_.first_flag,
                               flag_ - 1, flag_};
    wait_for_epilogue();
    int buffer = 0;  // barriers of all consumers lie between two phases of attention
    if (kByTable && p.kv_index > 0) {
      static_assert(DecodeProgram::kAsideBytes + 7 * 4 <= kAsideWords * 4);
      const uint32_t at = shared_address(shared_.aside[warp_]) + DecodeProgram::kAsideBytes;
      put_aside(at, flag_, latents_buffer_, moments_buffer_, cursor_.stage, cursor_.parity,
                sums_cursor_.stage, sums_cursor_.parity);
      DecodeTableAttention(a_, shared_, table_, p.kv_index - 1, inputs).run();
      take_back(at, flag_, latents_buffer_, moments_buffer_, cursor_.stage, cursor_.parity,
                sums_cursor_.stage, sums_cursor_.parity);
    } else if (plan.shape.by_head) {
      DecodeHeadAttention<kCache, kSlots>(a_, shared_, ring_, inputs_, warp_partials(), buffer, plan, inputs)
          .run(cursor_);
    } else {
      DecodeAttention<kCache, kSlots, true, true>(a_, shared_, ring_, warp_partials(), buffer, p.cache, plan,
                                                  inputs)
          .run(cursor_);
    }
    ++flag_;
    combine(p.kv_index > 0, plan);
  }

 private:
  using Input = ProductInput;
  using Output = ProductOutput;

  /// Parameters of LayerNorm for this lane's 4 columns.
  struct Norm {
    uint2 scale{0, 0}, offset{0, 0};
  };

  __device__ float4* merged_parts(int buffer) const {
    return reinterpret_cast<float4*>(sums_ + 2 * kSums) + buffer * kMergeQuadruples;
  }
  __device__ float* warp_partials() const { return sums_ + 2 * kSums + kMergeBytes / 4; }
  __device__ bool active(int slot) const { return shared_.self.rows[slot] > 0; }
  __device__ static bool is_latent(const Product& p) {
    return p.input == Input::latent || p.input == Input::latent_norm;
  }
  __device__ static bool is_norm(const Product& p) {
    return p.input == Input::latent_norm || p.input == Input::embedding_norm;
  }

  // ------------------------------------------------------------------ inputs

  /// This lane's first column of a tile of columns.
  __device__ int column(int tile) const {
    return tile * kTileColumns + (warp_ + lane_ / 8 * kConsumerWarps) * 32 + lane_ % 8 * 4;
  }

  /// A block without outputs still waits for the latents: flagged_buffers.cuh says why.
  __device__ void skip(const Product& p) const {
    if (!is_latent(p)) return;
    float4 x[kSlots];
    if (column(0) < p.columns) receive_latents(x);
    consumer_barrier();
  }

  __device__ void receive_latents(float4 (&x)[kSlots]) const {
    const uint64_t* places[2 * kSlots];
    uint2 words[2 * kSlots];
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      places[2 * s] = a_.flagged.latents[latents_buffer_] + s * a_.latent + latent_word(column(0));
      places[2 * s + 1] = places[2 * s] + 16;
    }
    receive(places, flag_ - 1, words);
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const float2 low = floats(words[2 * s]), high = floats(words[2 * s + 1]);
      x[s] = {low.x, low.y, high.x, high.y};
    }
  }

  /// This lane's 4 values of the embedding of a slot's token.
  __device__ float4 embed(int slot) const {
    float4 x{0, 0, 0, 0};
    if (!active(slot)) return x;
    add_row(x, a_.token_embedding, a_.token[slot]);
#pragma unroll 1
    for (int t = 0; t < a_.position_tables; ++t)
      add_row(x, a_.position_table[t], a_.table_position[slot * a_.position_tables + t]);
    const float2 low = unpack(pack(x.x, x.y)), high = unpack(pack(x.z, x.w));
    return {low.x, low.y, high.x, high.y};
  }
  __device__ void add_row(float4& x, const bf16* table, int row) const {
    const uint2 packed =
        *reinterpret_cast<const uint2*>(table + static_cast<int64_t>(row) * a_.input + column(0));
    const float2 low = unpack(packed.x), high = unpack(packed.y);
    x.x += low.x, x.y += low.y, x.z += high.x, x.w += high.y;
  }

  /// Receives this warp's columns of up to kHeldStages tiles of columns from `begin` on.
  __device__ __forceinline__ void receive_inputs(const Product& p, const Norm& norm, int begin) {
    __syncwarp();  // the previous columns have been read
    if (p.input == Input::hidden) {
      receive_hidden(p, begin);
    } else {
      const bool valid = column(0) < p.columns;
      uint2 packed[kSlots] = {};
      if (p.input == Input::attended) {
        if (valid) receive_attended(p.columns, packed);
      } else {
        float centers[kSlots];
#pragma unroll
        for (int s = 0; s < kSlots; ++s) centers[s] = shared_.flagged_norm.centers[s][warp_];
        float4 x[kSlots] = {};
        if (valid) {
          if (is_latent(p)) {
            receive_latents(x);
          } else {
#pragma unroll
            for (int s = 0; s < kSlots; ++s) x[s] = embed(s);
          }
        }
        if (is_norm(p))
          normalise(x, valid, is_latent(p) ? a_.inverse_latent : a_.inverse_input, norm, centers);
#pragma unroll
        for (int s = 0; s < kSlots; ++s) packed[s] = {pack(x[s].x, x[s].y), pack(x[s].z, x[s].w)};
      }
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        uint2 tiles[1] = {packed[s]};
        products_.store_inputs(s, tiles);
      }
    }
    __syncwarp();
  }

  __device__ void receive_attended(int columns, uint2 (&packed)[kSlots]) const {
    const uint64_t* places[kSlots];
#pragma unroll
    for (int s = 0; s < kSlots; ++s) places[s] = a_.flagged.attended + (s * columns + column(0)) / 2;
    receive(places, flag_ - 1, packed);
  }

  __device__ __forceinline__ void receive_hidden(const Product& p, int begin) {
    uint2 packed[kSlots * kHeldStages];
    int words[kHeldStages];
#pragma unroll
    for (int j = 0; j < kHeldStages; ++j) {
      // Columns past the last: any other columns, since their weights are zero.
      const int c = column(begin + j);
      words[j] = (c < p.columns ? c : 0) / 2;
    }
    receive_from(
        [&](int i) { return a_.flagged.hidden + i / kHeldStages * (p.columns / 2) + words[i % kHeldStages]; },
        [&](int) { return flag_ - 1; }, packed);
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      uint2 tiles[kHeldStages];
#pragma unroll
      for (int j = 0; j < kHeldStages; ++j) {
        tiles[j] = packed[s * kHeldStages + j];
        if (column(begin + j) >= p.columns) tiles[j] = {0, 0};
      }
      products_.store_inputs(s, tiles);
    }
  }

  /// Over all columns, of whose number `inverse` is the reciprocal. The sums are taken about the mean of the
  /// previous LayerNorm, to avoid cancellation.
  __device__ void normalise(float4 (&x)[kSlots], bool valid, float inverse, Norm norm,
                            const float (&centers)[kSlots]) {
    // Double-buffered, since a warp may be at the next LayerNorm while another still reads.
    moments_buffer_ ^= 1;
    auto& moments = shared_.flagged_norm.moments[moments_buffer_];
    float2 sums[kSlots];
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const float center = centers[s];
      x[s] = {x[s].x - center, x[s].y - center, x[s].z - center, x[s].w - center};
      if (!valid) x[s] = {0, 0, 0, 0};
      sums[s] = sums_of(x[s]);
    }
#pragma unroll
    for (int s = 0; s < kSlots; ++s)
      if (lane_ == 0) moments[s][warp_] = sums[s];
    consumer_barrier();
    float2 mean_and_rstd[kSlots];
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      float sum = 0, squares = 0;
#pragma unroll
      for (int w = 0; w < kConsumerWarps; ++w) {
        const float2 part = moments[s][w];
        sum += part.x, squares += part.y;
      }
      const float mean = sum * inverse;
      mean_and_rstd[s] = {mean, rsqrtf(fmaxf(squares * inverse - mean * mean, 0.0f) + kNormEpsilon)};
      if (lane_ == 0) shared_.flagged_norm.centers[s][warp_] = centers[s] + mean;
    }
    hold_until_here(norm);
    const float2 s0 = unpack(norm.scale.x), s1 = unpack(norm.scale.y);
    const float2 o0 = unpack(norm.offset.x), o1 = unpack(norm.offset.y);
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const auto [mean, rstd] = mean_and_rstd[s];
      x[s] = {(x[s].x - mean) * rstd * s0.x + o0.x, (x[s].y - mean) * rstd * s0.y + o0.y,
              (x[s].z - mean) * rstd * s1.x + o1.x, (x[s].w - mean) * rstd * s1.y + o1.y};
    }
  }
  /// Of the warp's values, and of their squares.
  __device__ static float2 sums_of(float4 d) {
    float2 sums{(d.x + d.y) + (d.z + d.w), (d.x * d.x + d.y * d.y) + (d.z * d.z + d.w * d.w)};
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      sums.x += __shfl_xor_sync(0xffffffffu, sums.x, offset);
      sums.y += __shfl_xor_sync(0xffffffffu, sums.y, offset);
    }
    return sums;
  }

  /// Keeps the compiler from unpacking the parameters, and so waiting for them, before it asks for the
  /// inputs.
  __device__ static void hold_until_here(Norm& norm) {
    asm volatile("" : "+r"(norm.scale.x), "+r"(norm.scale.y), "+r"(norm.offset.x), "+r"(norm.offset.y));
  }

  __device__ Norm load_norm(const Product& p) const {
    Norm norm;
    if (!is_norm(p) || column(0) >= p.columns) return norm;
    norm.scale = __ldg(reinterpret_cast<const uint2*>(static_cast<const bf16*>(p.norm.scale) + column(0)));
    norm.offset = __ldg(reinterpret_cast<const uint2*>(static_cast<const bf16*>(p.norm.offset) + column(0)));
    return norm;
  }

  // ---------------------------------------------------------------- products

  /// Hands the sums of each pass to the epilogue.
  __device__ __forceinline__ void multiply(const Product& p, const Share& tiles) {
    const Passes passes(p);
    const Norm norm = load_norm(p);
    wait_for_epilogue();
#pragma unroll 1
    for (int first = tiles.begin; first < tiles.end; first += passes.tiles) {
      const int count = min(passes.tiles, tiles.end - first);
      float sums[kHeldStages] = {};
      mbarrier_wait(shared_address(&shared_.sums_empty[sums_cursor_.stage]), sums_cursor_.parity ^ 1);
#pragma unroll 1
      for (int begin = 0; begin < passes.column_tiles; begin += kHeldStages) {
        const bool by_columns = passes.column_tiles > 1;
        const int stages = by_columns ? min(kHeldStages, passes.column_tiles - begin) : count;
        typename Products::Weights w[kHeldStages];
        load_weights(p, stages, begin, w);
        if (first == tiles.begin || passes.column_tiles > kHeldStages) receive_inputs(p, norm, begin);
        products_.multiply(stages, by_columns, w, sums);
      }
      write_sums(sums);
    }
    publishing_ = true;
  }

  /// Until the outputs of the last product have been published: other blocks wait for these, while the next
  /// weights or keys have time until other blocks have published what this phase needs. Makes a step 2%
  /// faster.
  __device__ void wait_for_epilogue() {
    if (publishing_) EpilogueBarrier<kSlots>::wait();
    publishing_ = false;
  }

  /// Sums of tiles that the pass does not have are 0, and never read.
  __device__ void write_sums(const float (&sums)[kHeldStages]) {
    float* to = sums_ + sums_cursor_.stage * kSums + lane_ % 4 * kPassSums + warp_ * kTileRows + lane_ / 4;
    if (lane_ % 4 < kSlots)
#pragma unroll
      for (int i = 0; i < kHeldStages; ++i) to[i * kConsumerWarps * kTileRows] = sums[i];
    mbarrier_arrive_warp(shared_address(&shared_.sums_full[sums_cursor_.stage]));
    sums_cursor_.advance(2);
  }

  /// The weights of the next stages; zeros where there are no columns. Tiles that the pass does not have are
  /// 0 or copies of the last: their inputs are 0, or their sums are never read.
  __device__ __forceinline__ void load_weights(const Product& p, int stages, int begin,
                                               typename Products::Weights (&w)[kHeldStages]) {
    wait_for_stages(stages);
    if (p.columns % kTileColumns == 0) {
      load_tiles<true>(p.columns, stages, begin, w);
    } else {
      load_tiles<false>(p.columns, stages, begin, w);
    }
    release_stages(stages);
  }

  template <bool kWhole>
  __device__ __forceinline__ void load_tiles(int columns, int stages, int begin,
                                             typename Products::Weights (&w)[kHeldStages]) const {
#pragma unroll
    for (int i = 0; i < kHeldStages; ++i) {
      // A copy of a tile of eight bits takes less time than the branch that would avoid it.
      if (!is_narrow(kWeights) && i >= stages) {
#pragma unroll
        for (auto& block : w[i]) block = {};
        continue;
      }
      const int held = is_narrow(kWeights) ? min(i, stages - 1) : i;
      const int tile = columns > kTileColumns ? begin + held : 0;
      const uint32_t row = lane_weights<kWeights>(ring_, cursor_.moved(held, a_.stages).stage, lane_);
      Products::template load<kWhole>(row, warp_, columns - tile * kTileColumns, w[i]);
    }
  }

  /// Each lane waits for one of the stages, and hands one back, since one after the other takes longer; but
  /// all lanes for all in a build for racecheck.
  __device__ __forceinline__ void wait_for_stages(int stages) const {
    if (kWarpArrivals == 1) {
      const RingCursor own = cursor_.moved(min(lane_ % kHeldStages, stages - 1), a_.stages);
      mbarrier_wait(shared_address(&shared_.full[own.stage]), own.parity);
    } else {
      for (int i = 0; i < stages; ++i) {
        const RingCursor each = cursor_.moved(i, a_.stages);
        mbarrier_wait(shared_address(&shared_.full[each.stage]), each.parity);
      }
    }
    __syncwarp();
  }
  __device__ __forceinline__ void release_stages(int stages) {
    __syncwarp();
    if (kWarpArrivals == 1) {
      if (lane_ < stages)
        hopper::mbarrier_arrive(shared_address(&shared_.empty[cursor_.moved(lane_, a_.stages).stage]));
    } else {
      for (int i = 0; i < stages; ++i)
        hopper::mbarrier_arrive(shared_address(&shared_.empty[cursor_.moved(i, a_.stages).stage]));
    }
    cursor_ = cursor_.moved(stages, a_.stages);
  }

  // ------------------------------------------------------- combining attention

  /// Of all slots.
  __device__ Share pieces_of(const AttentionPlan& plan) const {
    return Share(kSlots * (plan.shape.width / 8));
  }
  __device__ int first_piece(const AttentionPlan& plan) const {
    return pieces_of(plan).begin + (plan.shape.many_partials ? 0 : warp_);
  }
  __device__ HeadPiece piece_or_none(const AttentionPlan& plan, int i) const {
    if (!kOneSlot && i >= pieces_of(plan).end) return {nullptr, 0, 0};
    return find_piece<kOneSlot>(a_, plan, i);
  }

  /// This block's share of the channels, 8 at a time: each by one warp, or by all where there are many
  /// partials.
  __device__ __forceinline__ void combine(bool cross, const AttentionPlan& plan) {
    HeadPiece piece = shared_.pieces[cross ? 1 : 0][warp_];
    const Share pieces = pieces_of(plan);
    const bool together = plan.shape.many_partials;
#pragma unroll 1
    for (int i = first_piece(plan); i < pieces.end;) {
      // Batches of 3 keep the partials of all 132 blocks of an H100 in flight together.
      const PairSum sum =
          together
              ? merge_warps(combine_piece<3>(plan.shape, piece, lane_, warp_ * 8, kConsumers / 4, flag_ - 1),
                            merged_parts(i % 2), warp_, lane_, kConsumerWarps)
              : combine_piece<1>(plan.shape, piece, lane_, 0, 8, flag_ - 1);
      if (lane_ < 4 && (!together || warp_ == 0))
        publish(a_.flagged.attended + i * 4 + lane_, quotient(sum), flag_);
      i += together ? 1 : kConsumerWarps;
      if (i < pieces.end) piece = find_piece<kOneSlot>(a_, plan, i);
    }
  }

  const DecodeArguments& a_;
  DecodeShared& shared_;
  float* sums_;
  unsigned char* table_;
  uint32_t ring_;
  int warp_, lane_;
  unsigned char* inputs_;  // this warp's kInputBytes
  Products products_;
  uint32_t flag_;  // of what this phase publishes
  int latents_buffer_ = 0, moments_buffer_ = 0;
  bool publishing_ = false;  // the epilogue, what this warp has not waited for
  RingCursor cursor_, sums_cursor_;
};

#endif
}  // namespace perceiver::kernels::cuda
