// The program of the fused decode step: its phases, in order. All roles walk through the same list, so that
// what the producer copies is what the consumers use.
#pragma once

#include "kernels/cuda/decode/aside.cuh"
#include "kernels/cuda/decode/phase.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

class DecodeProgram {
 public:
  /// `cross` and `self`: the tables of blocks, in shared memory.
  __device__ DecodeProgram(const DecodeArguments& a, const DecodeCross* cross, const DecodeSelf* self)
      : a_(a), cross_(cross), self_(self) {}

  /// The next phase; false at the end.
  __device__ __forceinline__ bool next(Phase& phase) {
    phase.attends = phase.swaps_latents = false;
    phase.publishes = true;
    Product& p = phase.product;
    p.norm = {};
    p.activation = Activation::identity;
    p.query_rows = p.position_offset = 0;
    p.cache = nullptr;
    p.kv_index = 0;
    switch (section_) {
      case Section::inputs:
        inputs(phase);
        return true;
      case Section::queries:
        query_layer(phase);
        return true;
      case Section::blocks:
        phase.cross = in_cross_ != 0;
        if (in_cross_ != 0) {
          cross_block(phase);
        } else {
          self_block(phase);
        }
        if (++step_ == kBlockSteps) next_block();
        return true;
      case Section::output:
        section_ = Section::done;
        phase.cross = phase.publishes = false;
        p.linear = a_.output;
        p.norm = a_.output_norm;
        set_shape(p, a_.vocabulary, a_.latent, ProductInput::latent_norm, ProductOutput::logits);
        return true;
      case Section::done:
        break;
    }
    return false;
  }

  static constexpr int kAsideBytes = 5 * 4;
  __device__ void put_aside(uint32_t at) const {
    cuda::put_aside(at, section_, step_, block_cross_, block_self_, in_cross_);
  }
  __device__ void take_back(uint32_t at) {
    cuda::take_back(at, section_, step_, block_cross_, block_self_, in_cross_);
  }

 private:
  enum class Section { inputs, queries, blocks, output, done };
  static constexpr int kBlockSteps = 5;

  __device__ static void set_shape(Product& p, int rows, int columns, ProductInput input,
                                   ProductOutput output) {
    p.rows = rows;
    p.columns = columns;
    p.input = input;
    p.output = output;
  }

  /// Linear_z, and the new token's keys and values for every cross block.
  __device__ void inputs(Phase& phase) {
    Product& p = phase.product;
    phase.cross = true;
    const int caches = a_.context_kv != nullptr ? a_.cross_blocks : 0;
    phase.publishes = step_ == caches;
    if (step_ == 0) {
      p.linear = a_.query;
      set_shape(p, a_.latent, a_.input, ProductInput::embedding, ProductOutput::latent);
    } else {
      const int x = step_ - 1;
      p.linear = cross_[x].kv;
      p.norm = cross_[x].norm_kv;
      p.cache = cross_cache(x);
      p.kv_index = 1 + x;
      set_shape(p, 2 * a_.cross_shape.width, a_.input, ProductInput::embedding_norm,
                ProductOutput::attention);
    }
    if (++step_ <= caches) return;
    step_ = 0;
    section_ = a_.query_layers > 0 ? Section::queries : Section::blocks;
  }

  __device__ void query_layer(Phase& phase) {
    Product& p = phase.product;
    phase.cross = false;
    phase.swaps_latents = true;
    p.linear = a_.query_mlp[step_];
    p.activation = a_.query_activation;
    set_shape(p, a_.latent, a_.latent, ProductInput::latent, ProductOutput::latent_activated);
    if (++step_ < a_.query_layers) return;
    step_ = 0;
    section_ = Section::blocks;
  }

  __device__ void cross_block(Phase& phase) const {
    const DecodeCross& block = cross_[block_cross_];
    Product& p = phase.product;
    const int width = a_.cross_shape.width;
    switch (step_) {
      case 0:
        p.linear = block.q;
        p.norm = block.norm_q;
        p.query_rows = width;
        p.position_offset = a_.query_offset;
        return set_shape(p, width, a_.latent, ProductInput::latent_norm, ProductOutput::attention);
      case 1:
        phase.attends = true;
        p.cache = cross_cache(block_cross_);
        p.kv_index = 1 + block_cross_;
        return;
      case 2:
        p.linear = block.out;
        return set_shape(p, a_.latent, width, ProductInput::attended,
                         a_.query_residual ? ProductOutput::latent_add : ProductOutput::latent);
      case 3:
        return widen(p, block.mlp_0, block.norm_mlp, a_.cross_hidden);
      default:
        return narrow(p, block.mlp_1, a_.cross_hidden);
    }
  }

  __device__ void self_block(Phase& phase) const {
    const DecodeSelf& block = self_[block_self_];
    Product& p = phase.product;
    switch (step_) {
      case 0:
        p.linear = block.qkv;
        p.norm = block.norm;
        p.query_rows = a_.latent;
        p.position_offset = a_.query_offset;
        p.cache = self_cache(block_self_);
        return set_shape(p, 3 * a_.latent, a_.latent, ProductInput::latent_norm, ProductOutput::attention);
      case 1:
        phase.attends = true;
        p.cache = self_cache(block_self_);
        p.layer = block_self_;
        return;
      case 2:
        p.linear = block.out;
        return set_shape(p, a_.latent, a_.latent, ProductInput::attended, ProductOutput::latent_add);
      case 3:
        return widen(p, block.mlp_0, block.norm_mlp, a_.self_hidden);
      default:
        return narrow(p, block.mlp_1, a_.self_hidden);
    }
  }

  __device__ void widen(Product& p, const DecodeLinear& linear, const DecodeNorm& norm, int hidden) const {
    p.linear = linear;
    p.norm = norm;
    p.activation = a_.activation;
    set_shape(p, hidden, a_.latent, ProductInput::latent_norm, ProductOutput::hidden);
  }

  __device__ void narrow(Product& p, const DecodeLinear& linear, int hidden) const {
    p.linear = linear;
    set_shape(p, a_.latent, hidden, ProductInput::hidden, ProductOutput::latent_add);
  }

  /// The self layers follow the first cross block; some of them are followed by a further cross block.
  __device__ void next_block() {
    step_ = 0;
    const bool extra =
        in_cross_ == 0 && block_cross_ + 1 < a_.cross_blocks && a_.cross_after[block_cross_] == block_self_;
    if (extra) {
      ++block_cross_;
      in_cross_ = 1;
      return;
    }
    in_cross_ = 0;
    if (++block_self_ == a_.layers) section_ = Section::output;
  }

  __device__ bf16* self_cache(int layer) const {
    const AttentionShape& s = a_.self_shape;
    return a_.self_kv + static_cast<int64_t>(layer) * a_.cache_slots * s.ring_rows * (2 * s.width);
  }
  __device__ bf16* cross_cache(int block) const {
    const AttentionShape& s = a_.cross_shape;
    return a_.context_kv + static_cast<int64_t>(block) * a_.cache_slots * s.ring_rows * (2 * s.width);
  }

  const DecodeArguments& a_;
  const DecodeCross* cross_;
  const DecodeSelf* self_;
  Section section_ = Section::inputs;
  int step_ = 0, block_cross_ = 0, block_self_ = -1;
  int in_cross_ = 1;
};

#endif
}  // namespace perceiver::kernels::cuda
