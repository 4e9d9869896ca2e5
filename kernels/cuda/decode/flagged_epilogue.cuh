// The epilogue of the fused decode step where all vectors go through flagged buffers: a warp for every two
// slots that takes the consumers' sums of products from shared memory, applies bias, activation, residual or
// rotation, and publishes the outputs while the consumers are at the next phase. What an output needs besides
// its sum is loaded before the sum arrives.
#pragma once

#include "kernels/cuda/decode/aside.cuh"
#include "kernels/cuda/decode/cache_part.cuh"
#include "kernels/cuda/decode/flagged_buffers.cuh"
#include "kernels/cuda/decode/held_products.cuh"
#include "kernels/cuda/decode/phase.cuh"
#include "kernels/cuda/decode/work_split.cuh"
#include "kernels/cuda/support/activation.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

/// Floats of the sums of a pass and slot, [tile, warp, 8]; those of the next slot follow.
inline constexpr int kPassSums = kHeldStages * kConsumerWarps * kTileRows;

__device__ inline bool writes_latents(const Product& p) {
  return p.output <= ProductOutput::latent_activated;
}

/// The new keys and values of self-attention (0) or a cross block, of the first slot.
__device__ inline uint64_t* new_rows(const DecodeArguments& a, int kv_index) {
  return a.flagged.new_kv + static_cast<int64_t>(kv_index) * a.slots * a.flagged.stride;
}

/// Half a warp has the outputs of a slot, two a lane. With an odd number of slots the last half has none: it
/// reads whatever follows the sums of the last slot and drops it.
template <int kSlots, DType kWeights, DType kCache>
class FlaggedEpilogue : public RoleRegisters {
 public:
  __device__ FlaggedEpilogue(const DecodeArguments& a, DecodeShared& shared, unsigned char* memory,
                             const DecodeLayout& layout)
      : a_(a),
        shared_(shared),
        sums_(reinterpret_cast<float*>(memory + layout.sums)),
        lane_(static_cast<int>(threadIdx.x) % kLanes),
        slot_((static_cast<int>(threadIdx.x) - kEpilogueWarp * 32) / kLanes),
        flag_(shared.first_flag) {}

  __device__ void arrive(bool) { ++flag_; }
  __device__ void swap_latents() {}
  __device__ void end() {}
  __device__ void attention(const Product&, const AttentionPlan&) { ++flag_; }

  __device__ __forceinline__ void product(const Product& p, const AttentionPlan& plan) {
    const Share tiles = Share::of_grid((p.rows + kTileRows - 1) / kTileRows, a_.grid_reciprocal);
    const Passes passes(p);
#pragma unroll 1
    for (int first = tiles.begin; first < tiles.end; first += passes.tiles) {
      const OutputPair result =
          load_operands(p, plan, first - tiles.begin, first, min(passes.tiles, tiles.end - first));
      mbarrier_wait(shared_address(&shared_.sums_full[cursor_.stage]), cursor_.parity);
      const float2 sum = total(result.tile);
      mbarrier_arrive_warp(shared_address(&shared_.sums_empty[cursor_.stage]));
      cursor_.advance(2);
      if (result.valid) write_outputs(p, result, sum);
    }
    if (tiles.begin < tiles.end) EpilogueBarrier<kSlots>::arrive();
    if (writes_latents(p)) latents_buffer_ ^= 1;
  }

 private:
  using Output = ProductOutput;
  static constexpr int kLanes = 4 * kHeldStages;  // of a slot

  /// Two neighbouring outputs: all that is known before their sums, which come much later than these loads.
  struct OutputPair {
    bool valid = false;
    int tile, row;                           // tile: within the pass
    bool second;                             // of the block's two groups of kHeldStages tiles
    float2 bias{0, 0}, scale{1, 1};          // scale: of weights of eight bits
    float cosine = 1, sine = 0, factor = 1;  // factor: scales queries
    uint64_t* to = nullptr;                  // in the flagged buffers
    void* cache = nullptr;                   // where keys and values go as well
  };

  /// What the pass needs besides the sums. `before`: tiles of the block's share before the pass.
  __device__ OutputPair load_operands(const Product& p, const AttentionPlan& plan, int before, int first,
                                      int count) const {
    OutputPair r;
    r.tile = (lane_ / 4 - before) & (kHeldStages - 1);
    r.row = (first + r.tile) * kTileRows + lane_ % 4 * 2;
    r.valid = slot_ < kSlots && r.tile < count && r.row < p.rows;
    r.second = ((before + r.tile) & kHeldStages) != 0;
    if (!r.valid) return r;
    if (p.linear.bias != nullptr) {
      const bf16* bias = static_cast<const bf16*>(p.linear.bias) + r.row;
      r.bias.x = __bfloat162float(__ldg(bias));
      if (r.row + 1 < p.rows) r.bias.y = __bfloat162float(__ldg(bias + 1));
    }
    if (is_narrow(kWeights)) {
      const float* scale = narrow_scales(p.linear, p.rows, p.columns) + r.row;
      r.scale.x = __ldg(scale);
      if (r.row + 1 < p.rows) r.scale.y = __ldg(scale + 1);
    }
    const FlaggedBuffers& to = a_.flagged;
    if (writes_latents(p)) {
      r.to = (latents_buffer_ == 0 ? to.latents[1] : to.latents[0]) + slot_ * p.rows + latent_word(r.row);
    } else if (p.output == Output::hidden) {
      r.to = to.hidden + (slot_ * p.rows + r.row) / 2;
    } else if (p.output == Output::attention) {
      load_attention_operands(p, plan, r);
    }
    return r;
  }

  __device__ bool is_active() const {
    return shared_.self.rows[slot_] > 0;
  }

  __device__ void load_attention_operands(const Product& p, const AttentionPlan& plan, OutputPair& r) const {
    const bool active = is_active();
    if (active) load_rotation(p, plan, r);
    const int of_slot = slot_ * a_.flagged.stride;
    if (r.row < p.query_rows) {
      r.to = a_.flagged.queries + of_slot + r.row;
      r.factor = kLog2E * rsqrtf(static_cast<float>(plan.shape.head_dim));
      return;
    }
    const int channel = r.row - p.query_rows;
    r.to = new_rows(a_, p.kv_index) + of_slot + channel / 2;
    if (!active) return;
    const int64_t row = static_cast<int64_t>(slot_) * plan.shape.ring_rows + plan.new_row[slot_];
    r.cache = static_cast<char*>(p.cache) + row * plan.shape.row_bytes +
              channel * kPartBytes / kPartChannels<kCache>;
  }

  /// Cosine and sine, where the outputs are rotated channels.
  __device__ void load_rotation(const Product& p, const AttentionPlan& plan, OutputPair& r) const {
    const AttentionShape& shape = plan.shape;
    const int column = r.row < p.query_rows ? r.row : r.row - p.query_rows;
    const int channel = column & (shape.head_dim - 1);
    if (column >= shape.rotary_heads * shape.head_dim || channel >= 2 * shape.bands) return;
    const int position = shared_.position[slot_] + p.position_offset;
    const int64_t entry = static_cast<int64_t>(abs(position)) * shape.bands + channel / 2;
    r.cosine = __ldg(shape.cosine + entry), r.sine = __ldg(shape.sine + entry);
    if (position < 0) r.sine = -r.sine;
  }

  /// The sum of the consumer warps' sums, in warp order.
  __device__ float2 total(int tile) const {
    const float* from = sums_ + (cursor_.stage * kSlots + slot_) * kPassSums +
                        tile * kConsumerWarps * kTileRows + lane_ % 4 * 2;
    float2 sum{0, 0};
#pragma unroll
    for (int w = 0; w < kConsumerWarps; ++w) {
      const float2 part = *reinterpret_cast<const float2*>(from + w * kTileRows);
      sum.x += part.x, sum.y += part.y;
    }
    return sum;
  }

  __device__ void write_outputs(const Product& p, const OutputPair& r, float2 x) {
    if (is_narrow(kWeights)) x.x *= r.scale.x, x.y *= r.scale.y;
    x.x += r.bias.x, x.y += r.bias.y;
    if (p.output == Output::hidden) return publish(r.to, pack_pair(activate(p.activation, x)), flag_);
    if (writes_latents(p)) {
      if (p.output == Output::latent_activated) x = activate(p.activation, x);
      if (p.output == Output::latent_add) {
        const float2 own = r.second ? own_1_ : own_0_;
        x.x += own.x, x.y += own.y;
      }
      own_0_ = r.second ? own_0_ : x;
      own_1_ = r.second ? x : own_1_;
      return publish(r.to, x.x, x.y, flag_);
    }
    if (p.output == Output::logits) {
      if (is_active()) write_logits(p, r, x);
      return;
    }
    x = {x.x * r.cosine - x.y * r.sine, x.y * r.cosine + x.x * r.sine};
    if (r.row < p.query_rows) {
      return publish(r.to, x.x * r.factor, x.y * r.factor, flag_);
    }
    constexpr bool kNarrow = is_narrow(kCache);
    const uint32_t packed = cached_pair(kNarrow, x);
    publish(r.to, packed, flag_);
    if (r.cache != nullptr) store_cached_pair(kNarrow, r.cache, packed);
  }
  __device__ static uint32_t pack_pair(float2 x) {
    return pack(x.x, x.y);
  }

  __device__ void write_logits(const Product& p, const OutputPair& r, float2 x) const {
    float* logits = a_.logits + slot_ * p.rows + r.row;
    logits[0] = x.x;
    if (r.row + 1 < p.rows) logits[1] = x.y;
  }

  __device__ static float2 activate(Activation activation, float2 x) {
    if (activation != Activation::squared_relu) return activate_other(activation, x);
    x = {fmaxf(x.x, 0.0f), fmaxf(x.y, 0.0f)};
    return {x.x * x.x, x.y * x.y};
  }
  __device__ __noinline__ static float2 activate_other(Activation activation, float2 x) {
    return {activated(activation, x.x), activated(activation, x.y)};
  }

  const DecodeArguments& a_;
  DecodeShared& shared_;
  float* sums_;
  int lane_;  // of the slot's
  int slot_;
  uint32_t flag_;
  int latents_buffer_ = 0;
  float2 own_0_{0, 0}, own_1_{0, 0};  // the latents that this lane wrote
  RingCursor cursor_;
};

#endif
}  // namespace perceiver::kernels::cuda
