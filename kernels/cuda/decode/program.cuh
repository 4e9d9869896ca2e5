// The program of the fused decode step: its phases, in order. All roles walk through the same list, so that
// what the producer copies is what the consumers use.
#pragma once

#include <cstddef>

#include "kernels/cuda/decode/aside.cuh"
#include "kernels/cuda/decode/phase.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

/// The phases of a block, of self- or cross-attention. `first`: its own first; the second, attention, has no
/// product.
template <typename Block>
__device__ inline BlockStep step_of(int step, const BlockStep& first, int z, int width, int hidden,
                                    ProductOutput attended) {
  constexpr size_t kNorm = offsetof(Block, norm_mlp);
  switch (step) {
    case 0:
      return first;
    case 3:
      return make_step(hidden, z, offsetof(Block, mlp_0), kNorm, ProductInput::latent_norm,
                       ProductOutput::hidden);
    case 4:
      return make_step(z, hidden, offsetof(Block, mlp_1), kNorm, ProductInput::hidden,
                       ProductOutput::latent_add);
    default:
      return make_step(z, width, offsetof(Block, out), kNorm, ProductInput::attended, attended);
  }
}
__device__ inline BlockStep self_step(const DecodeArguments& a, int step) {
  const int z = a.latent;
  const BlockStep first = make_step(3 * z, z, offsetof(DecodeSelf, qkv), offsetof(DecodeSelf, norm),
                                    ProductInput::latent_norm, ProductOutput::attention);
  return step_of<DecodeSelf>(step, first, z, z, a.self_hidden, ProductOutput::latent_add);
}
__device__ inline BlockStep cross_step(const DecodeArguments& a, int step) {
  const int z = a.latent, width = a.cross_shape.width;
  const BlockStep first = make_step(width, z, offsetof(DecodeCross, q), offsetof(DecodeCross, norm_q),
                                    ProductInput::latent_norm, ProductOutput::attention);
  return step_of<DecodeCross>(step, first, z, width, a.cross_hidden,
                              a.query_residual ? ProductOutput::latent_add : ProductOutput::latent);
}

class DecodeProgram {
 public:
  /// `cross` and `self`: the tables of blocks, and `steps`: of what their phases are, in shared memory.
  __device__ DecodeProgram(const DecodeArguments& a, const DecodeCross* cross, const DecodeSelf* self,
                           const BlockStep* steps)
      : a_(a), cross_(cross), self_(self), steps_(steps) {}

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
        block_step(phase);
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

  __device__ __forceinline__ void block_step(Phase& phase) const {
    const bool cross = in_cross_ != 0;
    const BlockStep step = steps_[in_cross_ * kBlockSteps + step_];
    const void* block = cross ? static_cast<const void*>(cross_ + block_cross_) : self_ + block_self_;
    const auto* fields = static_cast<const unsigned char*>(block);
    Product& p = phase.product;
    phase.attends = step_ == 1;
    phase.cross = cross;
    p.linear = *reinterpret_cast<const DecodeLinear*>(fields + step.linear);
    p.norm = *reinterpret_cast<const DecodeNorm*>(fields + step.norm);
    p.activation = a_.activation;
    p.query_rows = cross ? a_.cross_shape.width : a_.latent;
    p.position_offset = a_.query_offset;
    p.cache = cross ? cross_cache(block_cross_) : self_cache(block_self_);
    p.kv_index = cross ? 1 + block_cross_ : 0;
    p.layer = block_self_;
    set_shape(p, step.rows, step.columns, static_cast<ProductInput>(step.input),
              static_cast<ProductOutput>(step.output));
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

  __device__ void* self_cache(int layer) const {
    return static_cast<char*>(a_.self_kv) + layer * a_.self_layer_bytes;
  }
  __device__ void* cross_cache(int block) const {
    return static_cast<char*>(a_.context_kv) + block * a_.cross_block_bytes;
  }

  const DecodeArguments& a_;
  const DecodeCross* cross_;
  const DecodeSelf* self_;
  const BlockStep* steps_;
  Section section_ = Section::inputs;
  int step_ = 0, block_cross_ = 0, block_self_ = -1;
  int in_cross_ = 1;
};

#endif
}  // namespace perceiver::kernels::cuda
