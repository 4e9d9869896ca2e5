// What the consumers of the fused decode step for several slots share (few_slots_consumer.cuh,
// many_slots_consumer.cuh): rows of inputs, and the outputs of products.
#pragma once

#include "kernels/cuda/decode/aside.cuh"
#include "kernels/cuda/decode/cache_part.cuh"
#include "kernels/cuda/decode/grid_barrier.cuh"
#include "kernels/cuda/decode/narrow_weights.cuh"
#include "kernels/cuda/decode/norm_row.cuh"
#include "kernels/cuda/decode/phase.cuh"
#include "kernels/cuda/decode/work_split.cuh"
#include "kernels/cuda/support/activation.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

class SlotConsumer : public RoleRegisters {
 public:
  __device__ void swap_latents() { latents_buffer_ ^= 1; }

 protected:
  using Input = ProductInput;
  using Output = ProductOutput;

  /// Four threads write the outputs of a slot in a tile; `pass_slots`: slots among which the threads are
  /// divided.
  __device__ SlotConsumer(const DecodeArguments& a, DecodeShared& shared, unsigned char* memory,
                          const DecodeLayout& layout, int pass_slots)
      : a_(a),
        shared_(shared),
        grid_(a, shared),
        sums_(reinterpret_cast<float*>(memory + layout.sums)),
        ring_(shared_address(memory + layout.ring)),
        thread_(static_cast<int>(threadIdx.x)),
        warp_(thread_ / 32),
        lane_(thread_ % 32),
        slot_(thread_ / 4 % pass_slots),
        first_tile_(thread_ / 4 / pass_slots) {}

  __device__ bool active(int slot) const { return shared_.self.rows[slot] > 0; }
  __device__ float* latents() const { return a_.latents[latents_buffer_]; }

  // ------------------------------------------------------------------ inputs

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

  /// Mean, and sum of squares about it, of a row, from those of its warps.
  template <int kWarps>
  __device__ float2 merge_moments(float2 own, int columns, const NormRow<kWarps>& row) const {
    if (lane_ == 0) shared_.moments[warp_] = own;
    consumer_barrier();
    float2 parts[kWarps];
#pragma unroll
    for (int w = 0; w < kWarps; ++w) parts[w] = shared_.moments[warp_ / kWarps * kWarps + w];
    return row.merge(parts, columns);
  }

  // ----------------------------------------------------------------- outputs

  /// Two neighbouring outputs of a slot, which this thread writes, and what they need besides their sums, as
  /// it was loaded: nothing waits for it before the sums are there.
  struct OutputPair {
    bool valid = false, rotated = false, backwards = false;
    int tile, row;  // tile: within the pass
    bf16 bias[2];
    float cosine, sine;
    float2 residual;
    float scale[2];  // of weights of eight bits
  };

  /// What the epilogue of the pass needs that does not depend on this step's phases: loaded before waiting
  /// for them. Where a pair is not valid it is another's. `whole`: these are the sums of all columns, or the
  /// first part of them, to which the others are added.
  template <DType kWeights>
  __device__ OutputPair load_operands(const Product& p, const AttentionPlan& plan, int first, int count,
                                      int tile, bool whole = true) const {
    OutputPair r;
    r.tile = tile;
    r.row = (first + r.tile) * kTileRows + thread_ % 4 * 2;
    r.valid = r.tile < count && r.row < p.rows && slot_ < a_.slots;
    const int row = r.valid ? r.row : 0, next = min(row + 1, p.rows - 1);
    if (whole && p.linear.bias != nullptr) {
      const bf16* bias = static_cast<const bf16*>(p.linear.bias);
      r.bias[0] = bias[row], r.bias[1] = bias[next];
    } else {
      r.bias[0] = r.bias[1] = bf16{};
    }
    if (is_narrow(kWeights)) {
      const float* scale = narrow_scales(p.linear, p.rows, p.columns);
      r.scale[0] = scale[row], r.scale[1] = scale[next];
    }
    if (p.output == Output::attention) load_rotation(p, plan, row, r);
    r.residual = {0, 0};
    if (whole && p.output == Output::latent_add) load_residual(p, row, r);
    return r;
  }

  /// Cosine and sine, where the outputs are rotated channels.
  __device__ void load_rotation(const Product& p, const AttentionPlan& plan, int row, OutputPair& r) const {
    const AttentionShape& shape = plan.shape;
    if (shape.bands == 0) return;
    const int column = row < p.query_rows ? row : row - p.query_rows;
    const int head = column / shape.head_dim, channel = column % shape.head_dim;
    r.rotated = r.valid && active(slot_) && column < shape.width && head < shape.rotary_heads &&
                channel < 2 * shape.bands;
    const int position = r.rotated ? shared_.position[slot_] + p.position_offset : 0;
    r.backwards = position < 0;
    const int64_t entry = static_cast<int64_t>(abs(position)) * shape.bands + (r.rotated ? channel / 2 : 0);
    r.cosine = shape.cosine[entry], r.sine = shape.sine[entry];
  }

  /// This block, if it did not write them itself, has waited for the latents at an earlier barrier.
  __device__ void load_residual(const Product& p, int row, OutputPair& r) const {
    const int slot = min(slot_, a_.slots - 1);
    r.residual = __ldcg(reinterpret_cast<const float2*>(latents() + slot * p.rows + row));
  }

  __device__ static float2 rotate(const OutputPair& r, float2 x) {
    if (!r.rotated) return x;
    const float sine = r.backwards ? -r.sine : r.sine;
    return {x.x * r.cosine - x.y * sine, x.x * sine + x.y * r.cosine};
  }

  /// The outputs of a pass, from the sums in shared memory. `latents`: where those of latent and latent_add
  /// go; `hidden`: where those of the hidden layer do, from a row on.
  template <DType kWeights, int kParts, int N, typename Hidden>
  __device__ __forceinline__ void write_outputs(const Product& p, const AttentionPlan& plan,
                                                const OutputPair (&r)[N], float* latents,
                                                Hidden&& hidden) const {
    float x[2 * N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      float2 sum = r[i].valid ? total<kParts>(r[i].tile) : float2{0, 0};
      if (is_narrow(kWeights)) sum.x *= r[i].scale[0], sum.y *= r[i].scale[1];
      x[2 * i] = sum.x + __bfloat162float(r[i].bias[0]) + r[i].residual.x;
      x[2 * i + 1] = sum.y + __bfloat162float(r[i].bias[1]) + r[i].residual.y;
    }
    const auto for_each = [&](auto&& write) {
#pragma unroll
      for (int i = 0; i < N; ++i)
        if (r[i].valid) write(r[i], float2{x[2 * i], x[2 * i + 1]});
    };
    switch (p.output) {
      case Output::latent:
      case Output::latent_add:
        return for_each([&](const OutputPair& pair, float2 y) { write_latents(latents, p, pair, y); });
      case Output::latent_activated:
        activate(p.activation, x);
        return for_each([&](const OutputPair& pair, float2 y) {
          write_latents(a_.latents[latents_buffer_ ^ 1], p, pair, y);
        });
      case Output::hidden:
        activate(p.activation, x);
        return for_each([&](const OutputPair& pair, float2 y) {
          *reinterpret_cast<uint32_t*>(hidden(pair.row)) = pack(y.x, y.y);
        });
      case Output::logits:
        return for_each([&](const OutputPair& pair, float2 y) { write_logits(p, pair, y); });
      case Output::attention:
        return for_each([&](const OutputPair& pair, float2 y) {
          write_attention_outputs(p, plan, pair, rotate(pair, y));
        });
    }
  }

  __device__ void write_latents(float* to, const Product& p, const OutputPair& r, float2 x) const {
    *reinterpret_cast<float2*>(to + slot_ * p.rows + r.row) = x;
  }
  __device__ void write_logits(const Product& p, const OutputPair& r, float2 x) const {
    if (!active(slot_)) return;
    a_.logits[slot_ * p.rows + r.row] = x.x;
    if (r.row + 1 < p.rows) a_.logits[slot_ * p.rows + r.row + 1] = x.y;
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
    const int64_t at = row * shape.row_bytes + (r.row - p.query_rows) * a_.cache_bytes;
    const bool narrow = a_.cache_bytes == 1;
    store_cached_pair(narrow, static_cast<char*>(p.cache) + at, cached_pair(narrow, x));
  }

  /// The sum of kParts sums, [tile, part, slot, 8], in their order.
  template <int kParts>
  __device__ float2 total(int tile) const {
    const float* from = sums_ + (tile * kParts * a_.slots + slot_) * kTileRows + thread_ % 4 * 2;
    float2 sum{0, 0};
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const float2 part = *reinterpret_cast<const float2*>(from + i * a_.slots * kTileRows);
      sum.x += part.x, sum.y += part.y;
    }
    return sum;
  }

  const DecodeArguments& a_;
  DecodeShared& shared_;
  GridBarrier grid_;
  float* sums_;
  uint32_t ring_;
  int thread_, warp_, lane_;
  int slot_, first_tile_;  // of the outputs that this thread writes; the tile within the pass
  int latents_buffer_ = 0, partials_buffer_ = 0;
  RingCursor cursor_;
};

#endif
}  // namespace perceiver::kernels::cuda
