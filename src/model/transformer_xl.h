// Transformer-XL between token ids and the last layer: embedding, blocks, memory (docs/model.md,
// "Transformer-XL"; Dai et al. 2019). Part of PerceiverAR, which holds the parameters and the output layer.
#pragma once

#include <functional>
#include <vector>

#include "model/inputs.h"
#include "model/segment_memory.h"
#include "nn/relative_block.h"

namespace perceiver {

struct DecodeCaches;

class TransformerXL {
 public:
  /// `start_block` is called before each block's parameters and once after the last.
  void declare(ParameterStore& store, const ModelConfig& config, const std::function<void()>& start_block);

  /// How a pass uses the caches of generation; see PerceiverAR::CacheUse.
  struct CacheUse {
    const DecodeCaches& caches;
    std::function<CachePass(int64_t layer)> of;
  };
  /// What logits are made of, [B * T, E]. `token_embedding` is [V, E], `begin` tells where the parameters of
  /// each block begin.
  Variable trunk(Tape& tape, const ModelInputs& inputs, const Variable& token_embedding,
                 const std::vector<int64_t>& begin, Recompute recompute, const CacheUse* caches) const;
  /// [layers, rows, W]: projected positions of the encoded distances [rows, Z].
  Tensor projected_positions(DeviceContext& context, const Tensor& distances) const;
  std::vector<ops::LinearParameters*> linears();

 private:
  Variable embed(Tape& tape, const ModelInputs& inputs, const Variable& token_embedding) const;
  ops::MemoryRows memory_of(const ModelInputs& inputs, int64_t layer) const;

  ModelConfig config_;
  ops::LinearParameters input_, output_;  ///< only if E is not Z
  RelativeBiases biases_;                 ///< only if shared
  std::vector<RelativeBlock> blocks_;
  ops::NormParameters output_norm_;
};

/// T [rows, channels]: row t is sin(t f_i), then cos(t f_i), f_i = 10000^(-2i / channels), of t = 0, 1, …
Tensor encoded_distances(DeviceContext& context, DType type, int64_t rows, int64_t channels);

}  // namespace perceiver
