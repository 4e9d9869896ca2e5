// Perceiver AR, and the decoder-only Transformer as the same model with latents = context and no
// cross-attention (docs/model.md; Hawthorne et al. 2022).
#pragma once

#include <memory>
#include <vector>

#include "model/inputs.h"
#include "nn/blocks.h"
#include "nn/parameters.h"
#include "perceiver/config.h"

namespace perceiver {

class PerceiverAR {
 public:
  /// Allocates the parameters, uninitialised. `config` must be valid (config/validate.h).
  PerceiverAR(const ModelConfig& config, std::shared_ptr<DeviceContext> context, DType type);
  PerceiverAR(const PerceiverAR&) = delete;
  PerceiverAR& operator=(const PerceiverAR&) = delete;

  const ModelConfig& config() const { return config_; }
  DeviceContext& context() const { return *context_; }
  DType type() const { return type_; }
  ParameterStore& parameters() { return parameters_; }
  const ParameterStore& parameters() const { return parameters_; }

  /// Changes how later passes project the context; not what they compute.
  void set_context_projection(ContextProjection how) { config_.context_projection = how; }

  /// Aligned latents, limits and positions of a batch; throws `user` for a batch that the model cannot take.
  ModelInputs prepare(const Batch& batch, const PassOptions& options) const;
  /// The same, reusing the tensors of `inputs`. Returns whether anything that a recorded pass relies on is at
  /// a new place: a tensor of `inputs`, or the rotary tables.
  bool prepare(const Batch& batch, const PassOptions& options, ModelInputs& inputs) const;

  /// Losses of a pass; with a recording tape, tape.backward() then writes the parameters' gradients.
  ops::LossResult loss(Tape& tape, const ModelInputs& inputs, const ops::LossOptions& options,
                       Recompute recompute) const;

  /// Logits [B, U, V] without gradients; meaningless at invalid latents.
  Tensor logits(const ModelInputs& inputs) const;

 private:
  void declare();
  /// Makes the rotary tables reach to position `largest`.
  void extend_rotary_tables(int64_t largest) const;
  Variable embed(Tape& tape, const Tensor& tokens, const Tensor& positions, int64_t rows) const;
  bool projects(const ModelInputs& inputs) const;
  /// Makes the fixed position tables for the first pass that projects tables; they stay where they are.
  void make_fixed_positions(const ModelInputs& inputs) const;
  Variable centred_positions(Tape& tape, size_t axis) const;
  Context context_of(Tape& tape, const ModelInputs& inputs) const;
  Variable queries(Tape& tape, const ModelInputs& inputs) const;
  Variable trunk(Tape& tape, const ModelInputs& inputs, Recompute recompute) const;
  int64_t attention_width() const;

  ModelConfig config_;
  std::shared_ptr<DeviceContext> context_;
  DType type_;
  ParameterStore parameters_;

  Variable token_embedding_;
  std::vector<Variable> position_embeddings_;  // one an axis; constants unless learnable
  ops::LinearParameters query_linear_;
  Variable learned_query_, index_encoding_;
  std::vector<ops::LinearParameters> query_mlp_;
  std::vector<CrossBlock> cross_;  // the first, then the extra ones in order
  std::vector<SelfBlock> self_;
  ops::NormParameters output_norm_;
  ops::LinearParameters output_;
  mutable std::vector<Tensor> fixed_positions_;  ///< less their rows' means, unrounded; where projected and fixed
  mutable ops::RotaryTable cross_rotary_, self_rotary_;
  mutable int64_t rotary_positions_ = 0;  ///< rows of the rotary tables
};

}  // namespace perceiver
