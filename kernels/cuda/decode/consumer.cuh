// The consumers of the fused decode step: 8 warps that take weights and cache rows out of the ring.
//
// A product multiplies the block's tiles of 8 outputs with the inputs of all slots on the tensor cores: slots
// are the rows of A, padded to kSlots, outputs the columns of B. The columns of a tile are dealt to the warps
// in blocks of 32; within a block a thread's 8 neighbouring elements serve as its share of two k16 steps, in
// A and B alike, so that both are read in 16-byte accesses. The warps' sums are added in their order. Inputs
// of up to 8 slots are normalised or combined by every block for itself, into shared memory; for more slots,
// and where attention's partial results are many, each block makes its share and all share them through the
// workspace.
#pragma once

#include "kernels/cuda/decode/attention.cuh"
#include "kernels/cuda/support/activation.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

/// LayerNorm of rows by one warp each; a lane has 4 neighbouring channels of every 128.
class NormRow {
 public:
  static constexpr int kPacks = kMaxChannels / 128;

  /// The parameters; called before waiting for the values.
  __device__ void load_norm(const DecodeNorm& norm, int columns) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (column(p) >= columns) continue;
      scale_[p] = *reinterpret_cast<const uint2*>(static_cast<const bf16*>(norm.scale) + column(p));
      offset_[p] = *reinterpret_cast<const uint2*>(static_cast<const bf16*>(norm.offset) + column(p));
    }
  }
  __device__ void load(const float* row, int columns) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      x_[p] = {0, 0, 0, 0};
      if (column(p) < columns) x_[p] = load_fresh(row + column(p));
    }
  }
  /// Adds a row of a table.
  __device__ void add(const bf16* row, int columns) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (column(p) >= columns) continue;
      const uint2 packed = *reinterpret_cast<const uint2*>(row + column(p));
      const float2 low = unpack(packed.x), high = unpack(packed.y);
      x_[p].x += low.x, x_[p].y += low.y, x_[p].z += high.x, x_[p].w += high.y;
    }
  }
  __device__ void clear() {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) x_[p] = {0, 0, 0, 0};
  }
  /// To what is left once stored as bf16.
  __device__ void round() {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const float2 low = unpack(pack(x_[p].x, x_[p].y)), high = unpack(pack(x_[p].z, x_[p].w));
      x_[p] = {low.x, low.y, high.x, high.y};
    }
  }
  __device__ void normalise(int columns) {
    const float inverse = 1.0f / static_cast<float>(columns);
    float sum = 0, squares = 0;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) sum += (x_[p].x + x_[p].y) + (x_[p].z + x_[p].w);
    const float mean = warp_sum(sum) * inverse;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (column(p) >= columns) continue;
      const float a = x_[p].x - mean, b = x_[p].y - mean, c = x_[p].z - mean, d = x_[p].w - mean;
      squares += (a * a + b * b) + (c * c + d * d);
    }
    const float rstd = rsqrtf(warp_sum(squares) * inverse + kNormEpsilon);
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const float2 s0 = unpack(scale_[p].x), s1 = unpack(scale_[p].y);
      const float2 o0 = unpack(offset_[p].x), o1 = unpack(offset_[p].y);
      x_[p].x = (x_[p].x - mean) * rstd * s0.x + o0.x;
      x_[p].y = (x_[p].y - mean) * rstd * s0.y + o0.y;
      x_[p].z = (x_[p].z - mean) * rstd * s1.x + o1.x;
      x_[p].w = (x_[p].w - mean) * rstd * s1.y + o1.y;
    }
  }
  __device__ void store(bf16* row, int columns) const {
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if (column(p) < columns)
        *reinterpret_cast<uint2*>(row + column(p)) = {pack(x_[p].x, x_[p].y), pack(x_[p].z, x_[p].w)};
  }

 private:
  __device__ static int column(int p) {
    return p * 128 + static_cast<int>(threadIdx.x) % 32 * 4;
  }

  float4 x_[kPacks];
  uint2 scale_[kPacks] = {}, offset_[kPacks] = {};
};

/// Where rows of inputs lie: in shared memory or in the workspace.
struct InputRows {
  const bf16* memory;
  uint32_t shared;  // address; 0: in the workspace
  int pitch;        // bytes
};

/// kSlots: 8, 16, 32 or 64, at least the slots of the step.
template <int kSlots>
class DecodeConsumer {
  static constexpr int kHalves = kSlots / 8;  // of 16 rows of A
  static constexpr int kRowTiles = kSlots < 16 ? 1 : kSlots / 16;
  static constexpr int kChains = kSlots == 8 ? 4 : 1;                       // of dependent products
  static constexpr int kTogether = kSlots == 8 ? 4 : kSlots == 16 ? 2 : 1;  // tile columns whose A is held
  static constexpr int kBlocks = kTileColumns / 32 / kConsumerWarps;        // of 32 columns, of a warp
  static constexpr int kPassTiles = 64 / kSlots;

 public:
  __device__ DecodeConsumer(const DecodeArguments& a, DecodeShared& shared, unsigned char* memory,
                            const DecodeLayout& layout)
      : a_(a),
        shared_(shared),
        grid_(a.arrivals),
        rows_(reinterpret_cast<bf16*>(memory + layout.rows)),
        sums_(reinterpret_cast<float*>(memory + layout.sums)),
        ring_(shared_address(memory + layout.ring)),
        thread_(static_cast<int>(threadIdx.x)),
        warp_(thread_ / 32),
        lane_(thread_ % 32),
        slot_(thread_ / 4 % a.slots),
        tile_in_pass_(thread_ / 4 / a.slots) {}

  /// Ends a phase, whose results other blocks read in the next.
  __device__ void arrive() { grid_.arrive(); }
  __device__ void swap_latents() { which_ ^= 1; }
  __device__ void end() {}

  __device__ __forceinline__ void product(const Product& p, const AttentionPlan& plan) {
    const Share tiles((p.rows + kTileRows - 1) / kTileRows);
    Result result = expect_result(p, plan, tiles, tiles.begin);
    load_old(p, result);
    const InputRows input = make_input(p, plan, tiles);
    if (tiles.begin == tiles.end) return;
    uint4 a[kTogether][kBlocks][kHalves];  // this thread's part of A
    load_inputs(p, input, 0, a);           // on every path, lest its registers are kept for all phases
#pragma unroll 1
    for (int first = tiles.begin; first < tiles.end; first += kPassTiles) {
      if (first > tiles.begin) {
        consumer_barrier();  // the sums are read
        result = expect_result(p, plan, tiles, first);
        load_old(p, result);
      }
      multiply(p, input, min(kPassTiles, tiles.end - first), a);
      consumer_barrier();
      if (result.valid) finish(p, plan, result, total(result.tile));
    }
  }

  __device__ __forceinline__ void attention(const Product& p, const AttentionPlan& plan) {
    DecodeAttention<false> work(a_, shared_, ring_, sums_, which_parts_, p.cache, plan);
    grid_.wait();
    work.run(cursor_);
  }

 private:
  using Input = ProductInput;
  using Output = ProductOutput;

  /// Two neighbouring outputs of a slot, which this thread finishes.
  struct Result {
    bool valid = false;
    int tile, row;  // tile: within the pass
    float2 bias{0, 0}, turn{1, 0}, old{0, 0};
  };

  __device__ bool active(int slot) const {
    return shared_.self.rows[slot] > 0;
  }
  __device__ float* latents() const {
    return a_.latents[which_];
  }

  // ------------------------------------------------------------------ inputs

  /// Waits for the phase before and returns where the inputs lie.
  __device__ InputRows make_input(const Product& p, const AttentionPlan& plan, const Share& tiles) {
    if (p.input == Input::hidden) {
      grid_.wait();
      return {a_.hidden, 0, p.columns * 2};
    }
    const bool attended = p.input == Input::attended;
    const bool through_workspace = kSlots > 8 || (attended && plan.shape.separate);
    if (!through_workspace) {
      const bool needed = tiles.begin < tiles.end;
      if (attended) {
        grid_.wait();
        if (needed) combine_all(plan);
      } else {
        make_rows(p, needed ? warp_ : a_.slots, kConsumerWarps, rows_, kRowPitch / 2);
      }
      consumer_barrier();
      return {rows_, shared_address(rows_), kRowPitch};
    }
    bf16* rows = a_.rows[which_rows_];
    which_rows_ ^= 1;
    if (attended) {
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

  /// Rows of slots `first`, first + step, ...
  __device__ void make_rows(const Product& p, int first, int step, bf16* to, int pitch) {
    NormRow row;
    const bool norm = p.input == Input::latent_norm || p.input == Input::embedding_norm;
    if (norm && first < a_.slots) row.load_norm(p.norm, p.columns);
    grid_.wait();
#pragma unroll 1
    for (int slot = first; slot < a_.slots; slot += step) {
      if (p.input == Input::latent || p.input == Input::latent_norm) {
        row.load(latents() + slot * p.columns, p.columns);
      } else {
        embed(slot, row);
      }
      if (norm) row.normalise(p.columns);
      row.store(to + slot * pitch, p.columns);
    }
  }

  __device__ void embed(int slot, NormRow& row) const {
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

  /// All heads of all slots, into shared memory.
  __device__ void combine_all(const AttentionPlan& plan) {
    const AttentionShape& shape = plan.shape;
#pragma unroll 1
    for (int i = warp_; i < a_.slots * shape.heads; i += kConsumerWarps) {
      const int slot = i / shape.heads, head = i % shape.heads;
      combine<false>(plan, slot, head, rows_ + slot * (kRowPitch / 2) + head * shape.head_dim);
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

  /// Adds up this warp's columns of some tiles and leaves the sums in shared memory, [tile, warp, slot, 8].
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

  /// This thread's part of A for kTogether tiles of columns.
  __device__ __forceinline__ void load_inputs(const Product& p, const InputRows& input, int begin,
                                              uint4 (&a)[kTogether][kBlocks][kHalves]) const {
#pragma unroll
    for (int j = 0; j < kTogether; ++j)
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const int column = (begin + j) * kTileColumns + (warp_ + b * kConsumerWarps) * 32 + lane_ % 4 * 8;
#pragma unroll
        for (int h = 0; h < kHalves; ++h) {
          const int slot = h * 8 + lane_ / 4;
          uint4& words = a[j][b][h];
          words = {0, 0, 0, 0};
          if (slot >= a_.slots || column >= p.columns) continue;
          const int offset = slot * input.pitch + column * 2;
          words = input.shared != 0 ? load_shared(input.shared + static_cast<uint32_t>(offset))
                                    : load_fresh(input.memory + offset / 2);
        }
      }
  }

  __device__ __forceinline__ void multiply_tile(int columns, const uint4 (&a)[kBlocks][kHalves],
                                                float (&c)[kChains][kRowTiles][4]) {
    const uint32_t row =
        ring_ + static_cast<uint32_t>(cursor_.stage * kStageBytes + lane_ / 4 * kRowPitch + lane_ % 4 * 16);
    mbarrier_wait(shared_address(&shared_.full[cursor_.stage]), cursor_.parity);
    uint4 w[kBlocks];
#pragma unroll
    for (int b = 0; b < kBlocks; ++b)
      if ((warp_ + b * kConsumerWarps) * 32 < columns)
        w[b] = load_shared(row + static_cast<uint32_t>(warp_ + b * kConsumerWarps) * 64);
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

  /// Of the warps, in their order.
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

  // ----------------------------------------------------------------- results

  /// What finishing the pass takes that does not depend on this step's phases: loaded before waiting for
  /// them.
  __device__ Result expect_result(const Product& p, const AttentionPlan& plan, const Share& tiles,
                                  int first) const {
    Result r;
    r.tile = tile_in_pass_;
    r.row = (first + r.tile) * kTileRows + thread_ % 4 * 2;
    r.valid = r.tile < kPassTiles && first + r.tile < tiles.end && r.row < p.rows;
    if (!r.valid) return r;
    if (p.linear.bias != nullptr) {
      const bf16* bias = static_cast<const bf16*>(p.linear.bias) + r.row;
      r.bias.x = __bfloat162float(bias[0]);
      if (r.row + 1 < p.rows) r.bias.y = __bfloat162float(bias[1]);
    }
    if (p.output == Output::attention && active(slot_)) load_turn(p, plan, r);
    return r;
  }

  /// Cosine and sine where the outputs are channels that turn.
  __device__ void load_turn(const Product& p, const AttentionPlan& plan, Result& r) const {
    const AttentionShape& shape = plan.shape;
    const int column = r.row < p.query_rows ? r.row : r.row - p.query_rows;
    const int head = column / shape.head_dim, channel = column % shape.head_dim;
    if (column >= shape.width || head >= shape.rotary_heads || channel >= 2 * shape.bands) return;
    const int position = shared_.position[slot_] + p.position_offset;
    const int64_t entry = static_cast<int64_t>(abs(position)) * shape.bands + channel / 2;
    r.turn = {shape.cosine[entry], position < 0 ? -shape.sine[entry] : shape.sine[entry]};
  }

  /// All products with the latents as outputs are dealt alike, hence this thread wrote what it loads: no need
  /// to wait for other blocks.
  __device__ void load_old(const Product& p, Result& r) const {
    if (r.valid && p.output == Output::latent_add)
      r.old = __ldcg(reinterpret_cast<const float2*>(latents() + slot_ * p.rows + r.row));
  }

  __device__ void finish(const Product& p, const AttentionPlan& plan, const Result& r, float2 x) const {
    x.x += r.bias.x + r.old.x, x.y += r.bias.y + r.old.y;
    if (p.output == Output::hidden || p.output == Output::latent_activated)
      x = {activated(p.activation, x.x), activated(p.activation, x.y)};
    switch (p.output) {
      case Output::latent:
      case Output::latent_add:
        *reinterpret_cast<float2*>(latents() + slot_ * p.rows + r.row) = x;
        return;
      case Output::latent_activated:
        *reinterpret_cast<float2*>(a_.latents[which_ ^ 1] + slot_ * p.rows + r.row) = x;
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
        return finish_attention(p, plan, r,
                                {x.x * r.turn.x - x.y * r.turn.y, x.y * r.turn.x + x.x * r.turn.y});
    }
  }

  __device__ void finish_attention(const Product& p, const AttentionPlan& plan, const Result& r,
                                   float2 x) const {
    const AttentionShape& shape = plan.shape;
    if (r.row < p.query_rows) {
      const float scale = kLog2E * rsqrtf(static_cast<float>(shape.head_dim));
      *reinterpret_cast<float2*>(a_.queries + slot_ * shape.width + r.row) = {x.x * scale, x.y * scale};
      return;
    }
    if (!active(slot_)) return;
    const int64_t row = static_cast<int64_t>(slot_) * shape.ring_rows + plan.fresh_row[slot_];
    *reinterpret_cast<uint32_t*>(p.cache + row * (2 * shape.width) + r.row - p.query_rows) = pack(x.x, x.y);
  }

  const DecodeArguments& a_;
  DecodeShared& shared_;
  GridBarrier grid_;
  bf16* rows_;
  float* sums_;
  uint32_t ring_;
  int thread_, warp_, lane_;
  int slot_, tile_in_pass_;  // of the outputs that this thread finishes
  int which_ = 0, which_rows_ = 0, which_parts_ = 0;
  RingCursor cursor_;
};

#endif
}  // namespace perceiver::kernels::cuda
