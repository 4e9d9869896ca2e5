// What the consumers of the fused decode step for several slots share (few_slots_consumer.cuh,
// many_slots_consumer.cuh): rows of inputs, and the outputs of products.
#pragma once

#include "kernels/cuda/decode/aside.cuh"
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

  // ----------------------------------------------------------------- outputs

  /// Two neighbouring outputs of a slot, which this thread writes.
  struct OutputPair {
    bool valid = false;
    int tile, row;  // tile: within the pass
    float2 bias{0, 0}, rotation{1, 0}, residual{0, 0};
    float2 scale{1, 1};  // of weights of eight bits
  };

  /// What the epilogue of the pass needs that does not depend on this step's phases: loaded before waiting
  /// for them.
  template <DType kWeights>
  __device__ OutputPair load_operands(const Product& p, const AttentionPlan& plan, int first, int count,
                                      int tile) const {
    OutputPair r;
    r.tile = tile;
    r.row = (first + r.tile) * kTileRows + thread_ % 4 * 2;
    r.valid = r.tile < count && r.row < p.rows && slot_ < a_.slots;
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

  template <DType kWeights>
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
