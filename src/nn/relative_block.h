// The block of Transformer-XL (docs/model.md, "Transformer-XL"): attention with relative positions to a
// memory and the segment, then an MLP; LayerNorm after each residual sum, or before attention and MLP.
#pragma once

#include <string>
#include <vector>

#include "nn/cache.h"
#include "ops/relative_attention.h"
#include "perceiver/config.h"
#include "perceiver/experimental/parameters.h"

namespace perceiver {

/// u and v, of a layer or of all.
struct RelativeBiases {
  void declare(ParameterStore& store, const std::string& name, int64_t heads, int64_t head_dim);
  Variable content, position;  ///< [heads, head_dim]
};

/// What a block needs to know about a pass besides its input.
struct RelativePass {
  int64_t batch = 0;
  ops::MemoryRows memory = {};
  Variable distances = {};  ///< [distances, Z], encoded; a constant
  int64_t window = 0;
  Tensor first_key = {};  ///< i32 [B]
  double dropout = 0, attention_dropout = 0;
  Recompute recompute = Recompute::none;
  const RelativeBiases* shared_biases = nullptr;
  const CachePass* cache = nullptr;  ///< generation
  Tensor cached_positions = {};      ///< decoding: `positions` of the distances, [distances, W]
};

class RelativeBlock {
 public:
  void declare(ParameterStore& store, const std::string& name, const ModelConfig& config);
  /// z [B * T, Z] → [B * T, Z].
  Variable forward(Tape& tape, const Variable& z, const RelativePass& pass) const;
  /// W_r of encoded distances: [distances, W].
  Variable positions(Tape& tape, const Variable& distances) const;
  std::vector<ops::LinearParameters*> linears();

 private:
  Variable plain(Tape& tape, const Variable& z, const RelativePass& pass) const;
  Variable normed_first(Tape& tape, const Variable& z, const RelativePass& pass) const;
  Variable normed_last(Tape& tape, const Variable& z, const RelativePass& pass) const;
  Variable attend(Tape& tape, const Variable& z, const RelativePass& pass) const;
  Variable attend_cached(Tape& tape, const Variable& q, const Variable& kv, const RelativePass& pass) const;
  Variable mlp(Tape& tape, const Variable& x, const RelativePass& pass) const;

  std::string name_;
  int64_t heads_ = 1, width_ = 0;
  bool norm_first_ = false, own_biases_ = false;
  Activation activation_ = Activation::relu;
  ops::NormParameters norm_, norm_mlp_;
  ops::LinearParameters q_, kv_, position_, out_, first_, second_;
  RelativeBiases biases_;
};

}  // namespace perceiver
