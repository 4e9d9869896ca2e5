// The consumers of the fused decode step for one slot. What counts is the chain of a phase, from the words
// that the blocks before it publish to its own: a warp receives the columns that it multiplies and no
// others, its weights wait in registers by then, and warps meet only for the sums of LayerNorm and of the
// outputs. Products are on the tensor cores as for more slots, with one row of A.
//
// Columns are dealt to warps as in decode_consumer.cuh, blocks of 32 out of every tile of 1024; a lane
// receives 4 neighbouring ones of a tile and leaves them, as bf16, in the warp's own part of shared memory.
// Attention's partial results are combined in a phase of their own, 8 channels at a time.
#pragma once

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/decode_attention.cuh"
#include "kernels/cuda/decode_exchange.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

class DecodeSingle {
  static constexpr int kHeld = 4;                                     // stages of weights in registers
  static constexpr int kChains = 2;                                   // of dependent products, of a stage
  static constexpr int kBlocks = kTileColumns / 32 / kConsumerWarps;  // of 32 columns, of a warp and tile
  static constexpr int kSums = kHeld * kConsumerWarps * kTileRows;
  static constexpr float kEpsilon = 1e-5f;

 public:
  __device__ DecodeSingle(const DecodeArguments& a, DecodeShared& shared, unsigned char* memory,
                          const DecodeLayout& layout)
      : a_(a),
        shared_(shared),
        tags_(a),
        sums_(reinterpret_cast<float*>(memory + layout.sums)),
        ring_(shared_address(memory + layout.ring)),
        thread_(static_cast<int>(threadIdx.x)),
        warp_(thread_ / 32),
        lane_(thread_ % 32),
        replica_(static_cast<int>(blockIdx.x) % kReplicas),
        inputs_(reinterpret_cast<unsigned char*>(memory + layout.rows) + warp_ * kInputBytes),
        tag_(tags_.first() + 1) {
    self_piece_ = find_piece(shared.self, first_piece(shared.self));
    cross_piece_ = find_piece(shared.cross, first_piece(shared.cross));
    if (tags_.clears()) clear_words();
  }

  /// Ends a phase.
  __device__ void arrive() { ++tag_; }
  __device__ void swap_latents() {}
  __device__ void end() {
    consumer_barrier();
    if (thread_ == 0) tags_.end_step();
  }

  __device__ __forceinline__ void product(const Product& p, const AttentionPlan& plan) {
    const Share tiles((p.rows + kTileRows - 1) / kTileRows);
    if (tiles.begin == tiles.end) {
      skip(p);
    } else {
      multiply(p, plan, tiles);
    }
    if (p.output == Output::latent || p.output == Output::latent_add || p.output == Output::latent_activated)
      which_ ^= 1;
  }

  __device__ __forceinline__ void attention(const Product& p, const AttentionPlan& plan) {
    const FreshInputs inputs{a_.exchange.fresh + static_cast<int64_t>(p.fresh) * a_.exchange.fresh_stride,
                             p.fresh == 0 ? tag_ - 1 : tags_.first() + 1, tag_ - 1, tag_};
    DecodeAttention<true>(a_, shared_, ring_, sums_ + 2 * kSums, p.cache, plan, inputs).run(cursor_);
    ++tag_;
    combine(p.fresh > 0, plan);
  }

 private:
  using Input = ProductInput;
  using Output = ProductOutput;

  /// Two neighbouring outputs, which a lane of every warp finishes. Loaded as they are, lest the warp waits.
  struct Result {
    bool valid = false;
    int tile, row;  // tile: within the pass
    bf16 bias[2] = {};
    bool turns = false, backwards = false;
    float cosine, sine;
  };
  /// Parameters of LayerNorm for this lane's 4 columns.
  struct Norm {
    uint2 scale{0, 0}, offset{0, 0};
  };

  __device__ bool active() const { return shared_.self.rows[0] > 0; }
  __device__ static bool is_latent(const Product& p) {
    return p.input == Input::latent || p.input == Input::latent_norm;
  }
  __device__ static bool is_norm(const Product& p) {
    return p.input == Input::latent_norm || p.input == Input::embedding_norm;
  }

  /// Before the first step of an epoch: tags begin anew.
  __device__ void clear_words() {
    for (int i = static_cast<int>(blockIdx.x) * kConsumers + thread_; i < a_.exchange.words;
         i += static_cast<int>(gridDim.x) * kConsumers)
      a_.exchange.latents[0][i] = 0;
    GridBarrier grid(a_.arrivals);
    grid.arrive();
    grid.wait();
  }

  // ------------------------------------------------------------------ inputs

  /// This lane's first column of a tile of columns.
  __device__ int column(int tile) const {
    return tile * kTileColumns + (warp_ + lane_ / 8 * kConsumerWarps) * 32 + lane_ % 8 * 4;
  }

  /// Without outputs; see decode_exchange.cuh for why to wait all the same.
  __device__ void skip(const Product& p) const {
    if (!is_latent(p)) return;
    if (column(0) < p.columns) receive_latents();
    consumer_barrier();
  }

  __device__ float4 receive_latents() const {
    uint2 words[2];
    receive(a_.exchange.latents[which_] + replica_ * a_.exchange.latent_stride + column(0), tag_ - 1, words);
    const float2 low = floats(words[0]), high = floats(words[1]);
    return {low.x, low.y, high.x, high.y};
  }

  /// 4 values of the token's embedding.
  __device__ float4 embed() const {
    float4 x{0, 0, 0, 0};
    if (!active()) return x;
    add_row(x, a_.token_embedding, a_.token[0]);
#pragma unroll 1
    for (int t = 0; t < a_.position_tables; ++t) add_row(x, a_.position_table[t], a_.table_position[t]);
    const float2 low = unpack(pack(x.x, x.y)), high = unpack(pack(x.z, x.w));
    return {low.x, low.y, high.x, high.y};
  }
  __device__ void add_row(float4& x, const bf16* table, int row) const {
    const uint2 packed =
        *reinterpret_cast<const uint2*>(table + static_cast<int64_t>(row) * a_.input + column(0));
    const float2 low = unpack(packed.x), high = unpack(packed.y);
    x.x += low.x, x.y += low.y, x.z += high.x, x.w += high.y;
  }

  /// Receives this warp's columns of up to kHeld tiles of columns from `begin` on.
  __device__ __forceinline__ void take_inputs(const Product& p, const Norm& norm, int begin) {
    __syncwarp();  // the columns before are read
    if (p.input == Input::hidden) {
      take_hidden(p, begin);
    } else {
      const bool valid = column(0) < p.columns;
      uint2 packed{0, 0};
      if (p.input == Input::attended) {
        if (valid)
          packed =
              receive_pairs(a_.exchange.attended + replica_ * a_.exchange.attended_stride + column(0) / 2);
      } else {
        float4 x{0, 0, 0, 0};
        if (valid) x = is_latent(p) ? receive_latents() : embed();
        if (is_norm(p)) x = normalise(x, valid, p.columns, norm);
        packed = {pack(x.x, x.y), pack(x.z, x.w)};
      }
      write_inputs(0, packed);
    }
    __syncwarp();
  }

  __device__ uint2 receive_pairs(const uint64_t* from) const {
    uint2 packed[1];
    receive(from, tag_ - 1, packed);
    return packed[0];
  }

  __device__ __forceinline__ void take_hidden(const Product& p, int begin) {
    const uint64_t* from[kHeld];
    uint2 packed[kHeld];
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      // Columns behind the last: any others, times weights that are zero.
      const int c = column(begin + j);
      from[j] = a_.exchange.hidden + replica_ * a_.exchange.hidden_stride + (c < p.columns ? c : 0) / 2;
    }
    receive(from, tag_ - 1, packed);
#pragma unroll
    for (int j = 0; j < kHeld; ++j) write_inputs(j, column(begin + j) < p.columns ? packed[j] : uint2{0, 0});
  }

  __device__ void write_inputs(int tile, uint2 packed) {
    *reinterpret_cast<uint2*>(inputs_ + tile * (kInputBytes / kHeld) + lane_ * 8) = packed;
  }

  /// Over all columns. The sums are taken about the mean of the LayerNorm before, lest they cancel.
  __device__ float4 normalise(float4 x, bool valid, int columns, const Norm& norm) {
    float4 d{x.x - center_, x.y - center_, x.z - center_, x.w - center_};
    if (!valid) d = {0, 0, 0, 0};
    float sum = (d.x + d.y) + (d.z + d.w), squares = (d.x * d.x + d.y * d.y) + (d.z * d.z + d.w * d.w);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, offset);
      squares += __shfl_xor_sync(0xffffffffu, squares, offset);
    }
    if (lane_ == 0) shared_.moments[warp_] = {sum, squares};
    consumer_barrier();
    sum = squares = 0;
#pragma unroll
    for (int w = 0; w < kConsumerWarps; ++w) {
      const float2 part = shared_.moments[w];
      sum += part.x, squares += part.y;
    }
    const float inverse = 1.0f / static_cast<float>(columns), mean = sum * inverse;
    const float rstd = rsqrtf(fmaxf(squares * inverse - mean * mean, 0.0f) + kEpsilon);
    center_ += mean;
    const float2 s0 = unpack(norm.scale.x), s1 = unpack(norm.scale.y);
    const float2 o0 = unpack(norm.offset.x), o1 = unpack(norm.offset.y);
    return {(d.x - mean) * rstd * s0.x + o0.x, (d.y - mean) * rstd * s0.y + o0.y,
            (d.z - mean) * rstd * s1.x + o1.x, (d.w - mean) * rstd * s1.y + o1.y};
  }

  __device__ Norm load_norm(const Product& p) const {
    Norm norm;
    if (!is_norm(p) || column(0) >= p.columns) return norm;
    norm.scale = __ldg(reinterpret_cast<const uint2*>(static_cast<const bf16*>(p.norm.scale) + column(0)));
    norm.offset = __ldg(reinterpret_cast<const uint2*>(static_cast<const bf16*>(p.norm.offset) + column(0)));
    return norm;
  }

  // ---------------------------------------------------------------- products

  /// A pass takes kHeld tiles of outputs, or one of several tiles of columns.
  __device__ __forceinline__ void multiply(const Product& p, const AttentionPlan& plan, const Share& tiles) {
    const int column_tiles = (p.columns + kTileColumns - 1) / kTileColumns;
    const Norm norm = load_norm(p);
    const int most = column_tiles == 1 ? kHeld : 1;
#pragma unroll 1
    for (int first = tiles.begin; first < tiles.end; first += most) {
      const int count = min(most, tiles.end - first);
      const Result result = expect_result(p, plan, tiles, first, count);
      float2 sums[kHeld] = {};
#pragma unroll 1
      for (int begin = 0; begin < column_tiles; begin += kHeld) {
        const int stages = column_tiles == 1 ? count : min(kHeld, column_tiles - begin);
        uint4 w[kHeld][kBlocks];
        take_weights(p, stages, begin, w);
        if (first == tiles.begin || column_tiles > kHeld) take_inputs(p, norm, begin);
        if (column_tiles > 1) {
          multiply_stages<kHeld, true>(w, sums);
        } else {
          multiply_tiles(count, w, sums);
        }
      }
      which_sums_ ^= 1;
      float* to = sums_ + which_sums_ * kSums;
      if (lane_ < 4)
#pragma unroll
        for (int i = 0; i < kHeld; ++i)
          if (i < count)
            *reinterpret_cast<float2*>(to + (i * kConsumerWarps + warp_) * kTileRows + lane_ * 2) = sums[i];
      consumer_barrier();
      if (result.valid) finish(p, plan, result, total(to, result.tile));
    }
  }

  /// Weights of the next stages; zeros where there are no columns.
  __device__ __forceinline__ void take_weights(const Product& p, int stages, int begin,
                                               uint4 (&w)[kHeld][kBlocks]) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (i >= stages) {
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) w[i][b] = {0, 0, 0, 0};
        continue;
      }
      const int tile = p.columns > kTileColumns ? begin + i : 0;
      const int columns = p.columns - tile * kTileColumns;
      const uint32_t row =
          ring_ + static_cast<uint32_t>(cursor_.stage * kStageBytes + lane_ / 4 * kRowPitch + lane_ % 4 * 16);
      barrier_wait(shared_address(&shared_.full[cursor_.stage]), cursor_.parity);
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const int block = warp_ + b * kConsumerWarps;
        w[i][b] = {0, 0, 0, 0};
        if (block * 32 < columns) w[i][b] = load_shared(row + static_cast<uint32_t>(block) * 64);
      }
      __syncwarp();
      if (lane_ == 0) barrier_arrive(shared_address(&shared_.empty[cursor_.stage]));
      cursor_.advance(a_.stages);
    }
  }

  __device__ __forceinline__ void multiply_tiles(int count, const uint4 (&w)[kHeld][kBlocks],
                                                 float2 (&sums)[kHeld]) const {
    switch (count) {
      case 1:
        return multiply_stages<1, false>(w, sums);
      case 2:
        return multiply_stages<2, false>(w, sums);
      case 3:
        return multiply_stages<3, false>(w, sums);
      default:
        return multiply_stages<4, false>(w, sums);
    }
  }

  /// Adds each stage's products to its own sums; or all to the first's, each with columns of its own.
  template <int kStages, bool kByColumns>
  __device__ __forceinline__ void multiply_stages(const uint4 (&w)[kHeld][kBlocks],
                                                  float2 (&sums)[kHeld]) const {
    const uint32_t inputs = shared_address(inputs_) + lane_ % 4 * 16;
    uint4 a[kBlocks];
    float c[kStages][kChains][4] = {};
#pragma unroll
    for (int i = 0; i < kStages; ++i) {
      if (i == 0 || kByColumns) {
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) {
          a[b] = {0, 0, 0, 0};
          if (lane_ < 4)
            a[b] = load_shared(inputs + static_cast<uint32_t>(i * (kInputBytes / kHeld) + b * 64));
        }
      }
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        multiply_add(c[i][2 * b % kChains], {a[b].x, 0, a[b].y, 0}, w[i][b].x, w[i][b].y);
        multiply_add(c[i][(2 * b + 1) % kChains], {a[b].z, 0, a[b].w, 0}, w[i][b].z, w[i][b].w);
      }
    }
#pragma unroll
    for (int i = 0; i < kStages; ++i)
#pragma unroll
      for (int j = 0; j < kChains; ++j) {
        float2& sum = sums[kByColumns ? 0 : i];
        sum.x += c[i][j][0], sum.y += c[i][j][1];
      }
  }

  /// Of the warps, in their order.
  __device__ float2 total(const float* sums, int tile) const {
    const float* from = sums + tile * kConsumerWarps * kTileRows + lane_ % 4 * 2;
    float2 sum{0, 0};
#pragma unroll
    for (int w = 0; w < kConsumerWarps; ++w) {
      const float2 part = *reinterpret_cast<const float2*>(from + w * kTileRows);
      sum.x += part.x, sum.y += part.y;
    }
    return sum;
  }

  // ----------------------------------------------------------------- results

  /// What finishing the pass takes that does not depend on the phase before. The tiles of the block's share
  /// are dealt to the lanes by fours, in every phase alike.
  __device__ Result expect_result(const Product& p, const AttentionPlan& plan, const Share& tiles, int first,
                                  int count) const {
    Result r;
    r.tile = (lane_ / 4 - (first - tiles.begin)) & 7;
    r.row = (first + r.tile) * kTileRows + lane_ % 4 * 2;
    r.valid = r.tile < count && r.row < p.rows;
    if (!r.valid) return r;
    if (p.linear.bias != nullptr) {
      const bf16* bias = static_cast<const bf16*>(p.linear.bias) + r.row;
      r.bias[0] = bias[0];
      if (r.row + 1 < p.rows) r.bias[1] = bias[1];
    }
    if (p.output == Output::attention && active()) load_turn(p, plan, r);
    return r;
  }

  /// Cosine and sine where the outputs are channels that turn.
  __device__ void load_turn(const Product& p, const AttentionPlan& plan, Result& r) const {
    const AttentionShape& shape = plan.shape;
    const int column = r.row < p.query_rows ? r.row : r.row - p.query_rows;
    const int channel = column & (shape.head_dim - 1);
    if (column >= shape.rotary_heads * shape.head_dim || channel >= 2 * shape.bands) return;
    const int position = shared_.position[0] + p.position_offset;
    const int64_t entry = static_cast<int64_t>(abs(position)) * shape.bands + channel / 2;
    r.turns = true, r.backwards = position < 0;
    r.cosine = shape.cosine[entry], r.sine = shape.sine[entry];
  }

  /// Every warp writes a replica; the first does what is done once.
  __device__ void finish(const Product& p, const AttentionPlan& plan, const Result& r, float2 x) {
    const Exchange& to = a_.exchange;
    x.x += __bfloat162float(r.bias[0]), x.y += __bfloat162float(r.bias[1]);
    if (p.output == Output::hidden || p.output == Output::latent_activated)
      x = {activated(p.activation, x.x), activated(p.activation, x.y)};
    switch (p.output) {
      case Output::latent_add:
        x.x += own_.x, x.y += own_.y;
        [[fallthrough]];
      case Output::latent:
      case Output::latent_activated:
        own_ = x;
        return publish(to.latents[which_ ^ 1] + warp_ * to.latent_stride + r.row, x.x, x.y, tag_);
      case Output::hidden:
        return publish(to.hidden + warp_ * to.hidden_stride + r.row / 2, pack(x.x, x.y), tag_);
      case Output::logits:
        if (warp_ > 0) return;
        a_.logits[r.row] = x.x;
        if (r.row + 1 < p.rows) a_.logits[r.row + 1] = x.y;
        return;
      case Output::attention:
        if (warp_ == 0) finish_attention(p, plan, r, turned(r, x));
        return;
    }
  }

  __device__ static float2 turned(const Result& r, float2 x) {
    if (!r.turns) return x;
    const float sine = r.backwards ? -r.sine : r.sine;
    return {x.x * r.cosine - x.y * sine, x.y * r.cosine + x.x * sine};
  }

  __device__ void finish_attention(const Product& p, const AttentionPlan& plan, const Result& r,
                                   float2 x) const {
    const AttentionShape& shape = plan.shape;
    if (r.row < p.query_rows) {
      const float scale = kLog2E * rsqrtf(static_cast<float>(shape.head_dim));
      return publish(a_.exchange.queries + r.row, x.x * scale, x.y * scale, tag_);
    }
    const int channel = r.row - p.query_rows;
    const uint32_t packed = pack(x.x, x.y);
    uint64_t* fresh = a_.exchange.fresh + static_cast<int64_t>(p.fresh) * a_.exchange.fresh_stride;
    publish(fresh + channel / 2, packed, tag_);
    if (!active()) return;
    const int64_t row = plan.fresh_row[0];
    *reinterpret_cast<uint32_t*>(p.cache + row * (2 * shape.width) + channel) = packed;
  }

  // ------------------------------------------------------- combining attention

  /// 8 channels of a head: their partial results.
  struct Piece {
    const uint64_t* words;
    int channel, count;
  };
  __device__ Piece find_piece(const AttentionPlan& plan, int piece) const {
    const AttentionShape& shape = plan.shape;
    const int head = piece * 8 / shape.head_dim, group = head / shape.group, within = head % shape.group;
    const int tiles = plan.tiles_before[1], total = tiles * shape.groups;
    if (tiles == 0) return {nullptr, 0, 0};
    const unsigned blocks = static_cast<unsigned>(plan.blocks);
    const int first = Share::owner(group * tiles, total, blocks);
    const int last = Share::owner(group * tiles + tiles - 1, total, blocks);
    return {partial_words(a_, shape, group, first) + within * (shape.head_dim + 2),
            piece * 8 % shape.head_dim, last - first + 1};
  }
  __device__ int first_piece(const AttentionPlan& plan) const {
    return Share(plan.shape.width / 8).begin + (plan.shape.separate ? 0 : warp_);
  }

  /// This block's share of the channels, 8 at a time: by one warp, or by all where partial results are many.
  __device__ __forceinline__ void combine(bool cross, const AttentionPlan& plan) {
    Piece piece = cross ? cross_piece_ : self_piece_;
    const Share pieces(plan.shape.width / 8);
    const bool together = plan.shape.separate;
#pragma unroll 1
    for (int i = first_piece(plan); i < pieces.end;) {
      PairSum sum = combine_piece(plan.shape, piece, together ? warp_ * 8 : 0, together ? kConsumers / 4 : 8);
      if (together) sum = merge_warps(sum);
      const float inverse = sum.denominator > 0 ? __frcp_rn(sum.denominator) : 0;
      if (!together || warp_ == 0)
        publish(a_.exchange.attended + lane_ / 4 * a_.exchange.attended_stride + i * 4 + lane_ % 4,
                pack(sum.out.x * inverse, sum.out.y * inverse), tag_);
      i += together ? 1 : kConsumerWarps;
      if (i < pieces.end) piece = find_piece(plan, i);
    }
  }

  /// Partial results first + lane / 4, + step, ...
  __device__ __forceinline__ PairSum combine_piece(const AttentionShape& shape, const Piece& piece, int first,
                                                   int step) const {
    const int stride = shape.group * (shape.head_dim + 2);
    PairSum sum;
#pragma unroll 1
    for (int i = first + lane_ / 4; i < piece.count; i += step) {
      const uint64_t* from = piece.words + static_cast<int64_t>(i) * stride;
      const uint64_t* places[2] = {from + piece.channel + lane_ % 4 * 2, from + shape.head_dim};
      uint2 words[2];
      receive(places, tag_ - 1, words);
      const float2 weight = floats(words[1]);
      sum.add(floats(words[0]), weight.x, weight.y);
    }
    __syncwarp();
    sum.merge();
    return sum;
  }

  /// The first warp gets the sum of all.
  __device__ PairSum merge_warps(PairSum sum) {
    float4* to = reinterpret_cast<float4*>(sums_ + 2 * kSums);
    if (lane_ < 4) to[thread_ / 32 * 4 + lane_] = {sum.out.x, sum.out.y, sum.largest, sum.denominator};
    consumer_barrier();
    const float4 part = to[lane_];
    consumer_barrier();
    sum = PairSum{{part.x, part.y}, part.z, part.w};
    sum.merge();
    return sum;
  }

  const DecodeArguments& a_;
  DecodeShared& shared_;
  StepTags tags_;
  float* sums_;
  uint32_t ring_;
  int thread_, warp_, lane_;
  int replica_;            // that this block reads
  unsigned char* inputs_;  // this warp's, [kHeld, 128] bf16
  uint32_t tag_;           // of what this phase publishes
  int which_ = 0, which_sums_ = 0;
  float center_ = 0;
  float2 own_{0, 0};  // the latents that this lane finishes
  Piece self_piece_, cross_piece_;
  RingCursor cursor_;
};

#endif
}  // namespace perceiver::kernels::cuda
