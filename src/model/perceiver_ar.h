// Perceiver AR, and the decoder-only Transformer as the same model with latents = context and no
// cross-attention (docs/model.md; Hawthorne et al. 2022).
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "model/decode_caches.h"
#include "model/fused_step.h"
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

  /// For generation on the CPU: rounds the linear layers' weights to bf16 and keeps a copy of half the size,
  /// which products of few rows read. What is computed from then on is that of the rounded weights. f32
  /// alone.
  void round_weights_to_bf16();
  /// Bytes of the linear layers' weights as products of few rows read them.
  int64_t linear_bytes() const;

  /// Makes the rotary tables reach to position `largest`. Passes under way keep the tables that they began
  /// with.
  void extend_rotary_tables(int64_t largest) const;
  /// Positions that the rotary tables reach, 0 without them.
  int64_t rotary_positions() const { return rotary_tables().positions; }

  /// Caches of `slots` sequences, with rings of `latents` and `context` rows; see DecodeCaches. `by_table`
  /// (rotary models) keeps the context as tokens. Contents unspecified but for the table, which is
  /// that of the present weights.
  DecodeCaches make_caches(int64_t slots, int64_t latents, int64_t context, bool by_table) const;
  /// A pass over one sequence (`inputs` of one example) that ends with the logits [1, V] of its last latent
  /// position, put into `logits`. Where `caches` is not null, keys and values of all its latents and its
  /// context become the first rows of `slot`'s rings.
  void prefill(const ModelInputs& inputs, const DecodeCaches* caches, int64_t slot,
               const Tensor& logits) const;
  /// One more token of each active slot, after what the caches hold: its keys and values join the rings, and
  /// `logits` [S, V] gets what follows it; the rows of other slots stay. A slot's results are those of the
  /// slot alone.
  void decode(const DecodeCaches& caches, const DecodeSlots& slots, const Tensor& logits,
              const FusedStep* fused = nullptr) const;
  /// The step as one kernel, for `decode` on these caches and slots; null where there is none for this model
  /// and device.
  std::shared_ptr<const FusedStep> fused_step(const DecodeCaches& caches, const DecodeSlots& slots) const;
  /// Whether `fused_step` has one for the caches that `make_caches` makes of these; allocates nothing.
  bool has_fused_step(int64_t slots, int64_t latents, int64_t context, bool by_table) const;

 private:
  struct RotaryTables {
    ops::RotaryTable cross, self;
    int64_t positions = 0;  ///< rows
  };
  /// What a pass does with caches.
  struct CacheUse {
    const DecodeCaches& caches;
    const DecodeSlots* slots;  ///< null: a whole pass of `slot`
    int64_t slot;
    CachePass of(LayerCache layer, bool self) const;
  };

  void declare();
  RotaryTables rotary_tables() const;
  Variable embed(Tape& tape, const Tensor& tokens, const Tensor& positions, int64_t rows) const;
  bool projects(const ModelInputs& inputs) const;
  /// Makes the fixed position tables for the first pass that projects tables; they stay where they are.
  void make_fixed_positions(const ModelInputs& inputs) const;
  Variable centred_positions(Tape& tape, size_t axis) const;
  Context context_of(Tape& tape, const ModelInputs& inputs, const CacheUse* caches) const;
  Variable queries(Tape& tape, const ModelInputs& inputs) const;
  /// Normalised latents [B * U, Z].
  Variable trunk(Tape& tape, const ModelInputs& inputs, Recompute recompute,
                 const CacheUse* caches = nullptr) const;
  std::vector<ops::LinearParameters*> linears();
  Tensor project_table() const;
  /// The fused step's arguments without caches and slots; null for models that have none.
  std::shared_ptr<FusedStep> fused_arguments(int64_t slots, int64_t latents, int64_t context) const;
  void decode_unfused(Tape& tape, const DecodeCaches& caches, const DecodeSlots& slots,
                      const Tensor& logits) const;
  /// logits (accumulation type) = Linear_out(z) for the few rows of z, each as if it were alone.
  void write_logits(Tape& tape, const Variable& z, const Tensor& logits) const;
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
  mutable std::mutex tables_mutex_;  ///< of the next two: passes of several threads share them
  mutable std::vector<Tensor>
      fixed_positions_;  ///< less their rows' means, unrounded; where projected and fixed
  mutable RotaryTables rotary_;
};

}  // namespace perceiver
