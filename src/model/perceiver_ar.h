// Perceiver AR, the decoder-only Transformer as the same model with latents = context and no cross-attention,
// and Transformer-XL, with other blocks (docs/model.md; Hawthorne et al. 2022; Dai et al. 2019).
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "model/decode_caches.h"
#include "model/fused_step.h"
#include "model/inputs.h"
#include "model/quantize.h"
#include "model/transformer_xl.h"
#include "nn/blocks.h"
#include "perceiver/config.h"
#include "perceiver/experimental/parameters.h"

namespace perceiver {

class PerceiverAR {
 public:
  /// Allocates the parameters without initialising them. `config` must be valid (config/validate.h). Throws
  /// `user` for heads of a Transformer-XL that are too wide for a GPU.
  PerceiverAR(const ModelConfig& config, std::shared_ptr<DeviceContext> context, DType type);
  PerceiverAR(const PerceiverAR&) = delete;
  PerceiverAR& operator=(const PerceiverAR&) = delete;

  const ModelConfig& config() const { return config_; }
  DeviceContext& context() const { return *context_; }
  DType type() const { return type_; }
  ParameterStore& parameters() { return parameters_; }
  const ParameterStore& parameters() const { return parameters_; }

  /// Elements of the flat parameter buffers where the parameters of each self block begin, and of what
  /// follows the last.
  const std::vector<int64_t>& self_begin() const { return self_begin_; }

  /// Changes how later passes project the context, not what they compute.
  void set_context_projection(ContextProjection how) { config_.context_projection = how; }

  /// Aligned latents, limits and positions of a batch; throws `user` for a batch the model cannot take.
  ModelInputs prepare(const Batch& batch, const PassOptions& options) const;
  /// The same, reusing the tensors of `inputs`. Returns whether anything a recorded pass relies on has moved:
  /// a tensor of `inputs`, or the rotary tables.
  bool prepare(const Batch& batch, const PassOptions& options, ModelInputs& inputs) const;

  /// The losses of a pass; on a recording tape, tape.backward() then writes the gradients of the parameters.
  ops::LossResult loss(Tape& tape, const ModelInputs& inputs, const ops::LossOptions& options,
                       Recompute recompute) const;

  /// Logits [B, U, V] without gradients; meaningless at invalid latents.
  Tensor logits(const ModelInputs& inputs) const;
  /// The (normalised) latents [B, U, Z] that logits are made of; meaningless at invalid latents.
  Tensor latents(const ModelInputs& inputs) const;

  /// For generation on the CPU, f32 models only: rounds the weights of the linear layers to bf16 and keeps a
  /// copy of half the size for skinny GEMMs to read. All later results are those of the rounded weights.
  /// Throws `user` for other models.
  void round_weights_to_bf16();
  /// Whether the model can have weights of eight bits: on a GPU, or f32.
  bool can_quantize_weights() const { return type_ == DType::f32 || context_->is_cuda(); }
  /// For generation: rounds the weights of the linear layers to eight bits, `type` i8 or e4m3
  /// (model/quantize.h). The CPU keeps the rounded f32 weights besides, for passes over many rows; a GPU
  /// frees all others, and the gradients: from then on the model cannot be trained, and passes over many rows
  /// make the weights of one layer at a time. Throws `user` for models that cannot have them, or have them
  /// already as another type and no others.
  void quantize_weights(DType type);
  /// Rounds the weights, unless they are of that type, or forgets a narrow copy of them; `automatic` changes
  /// nothing. Throws `user` for what the device cannot do: a GPU has float32 and bfloat16 weights only of
  /// models that compute in these.
  void set_weights(Weights weights);
  /// The type of the linear layers' weights as skinny GEMMs read them.
  DType weight_type() const { return output_.narrow_weight ? output_.narrow_weight.dtype() : type_; }
  /// The part of the narrow copies that belongs to a parameter; no tensors if there is none.
  NarrowWeight narrow_weight(const ParameterInfo& info) const;
  /// Makes narrow copies of eight bits with unspecified contents, for a file's to be read into. For models
  /// that can_quantize_weights().
  void allocate_quantized_weights(DType type);
  /// On a GPU, frees the weights of which there are narrow ones, and the gradients; elsewhere nothing.
  void forget_wide_weights();
  /// Bytes of the linear layers' weights as skinny GEMMs read them.
  int64_t linear_bytes() const;

  /// Extends the rotary tables to position `largest`. Passes in progress keep the tables they started with.
  void extend_rotary_tables(int64_t largest) const;
  /// Number of positions in the rotary tables; 0 without them.
  int64_t rotary_positions() const { return rotary_tables().positions; }

  /// KV caches of `slots` sequences, with ring buffers of `latents` and `context` rows; see DecodeCaches.
  /// `by_table` (rotary models) keeps the context as tokens. Contents are unspecified, except for the table,
  /// which is computed from the present weights. The ranks of `context_group` share the context's rows, and
  /// make the same calls of `prefill` and `decode` with these caches. `type`: of the elements, the model's
  /// or, of a model in f32 on the CPU, bf16; none: the model's.
  DecodeCaches make_caches(int64_t slots, int64_t latents, int64_t context, bool by_table,
                           Communicator* context_group = nullptr, std::optional<DType> type = {}) const;
  /// A pass over one sequence (`inputs` of one example); `logits` [1, V] gets those of its last latent
  /// position. Unless `caches` is null, the keys and values of all its latents and its context become the
  /// first rows of `slot`'s caches. The context is shared by the ranks of the caches, if any.
  void prefill(const ModelInputs& inputs, const DecodeCaches* caches, int64_t slot,
               const Tensor& logits) const;
  /// One more token of each active slot, after what the caches hold: appends its keys and values to the
  /// caches, and writes the logits that follow it to `logits` [S, V]; the rows of other slots keep their
  /// contents. A slot's results do not depend on the other slots.
  void decode(const DecodeCaches& caches, const DecodeSlots& slots, const Tensor& logits,
              const FusedStep* fused = nullptr) const;
  /// The step of `range` of these slots as one kernel, for `decode`, which then computes no others; null if
  /// there is none for this model and device. `workspace`: that of another step of as many slots of the same
  /// caches, between whose runs this one may run; empty: a new one.
  std::shared_ptr<const FusedStep> fused_step(const DecodeCaches& caches, const DecodeSlots& slots,
                                              SlotRange range, const Tensor& workspace = {}) const;
  /// Whether there is a fused step for the caches that `make_caches` would make; allocates nothing.
  bool has_fused_step(int64_t slots, int64_t latents, int64_t context, bool by_table, DType cache_type) const;

  /// The linear layers of the attention blocks, in a fixed order.
  std::vector<ops::LinearParameters*> block_linears();

 private:
  struct RotaryTables {
    ops::RotaryTable cross, self;
    int64_t positions = 0;  ///< rows
  };
  /// The caches a pass reads and writes.
  struct CacheUse {
    const DecodeCaches& caches;
    const DecodeSlots* slots;  ///< null: prefill of one slot
    std::vector<SlotRun> runs;
    int64_t newest = 0;        ///< prefill of a Transformer-XL: rows to keep
    DecodeSlots context = {};  ///< decode: where the context is concerned, this rank's part of `slots`
    CachePass of(LayerCache layer, bool self) const;
  };

  void declare();
  void declare_output(int64_t channels);
  void start_block();
  RotaryTables rotary_tables() const;
  Variable embed(Tape& tape, const Tensor& tokens, const Tensor& positions, int64_t rows) const;
  bool projects(const ModelInputs& inputs) const;
  /// Sets inputs.distances; the table behind it moves when it grows.
  void encode_distances(ModelInputs& inputs) const;
  /// Makes the fixed position tables in the first pass that projects tables; they never move.
  void make_fixed_positions(const ModelInputs& inputs) const;
  Variable centred_positions(Tape& tape, size_t axis) const;
  Context context_of(Tape& tape, const ModelInputs& inputs, const CacheUse* caches) const;
  Variable queries(Tape& tape, const ModelInputs& inputs) const;
  /// Normalised latents [B * U, Z]; of a Transformer-XL, what logits are made of, [B * U, E].
  Variable trunk(Tape& tape, const ModelInputs& inputs, Recompute recompute,
                 const CacheUse* caches = nullptr) const;
  Variable recurrent_trunk(Tape& tape, const ModelInputs& inputs, Recompute recompute,
                           const CacheUse* caches) const;
  std::vector<ops::LinearParameters*> linears();
  Tensor project_table() const;
  Tensor cached_positions(int64_t rows) const;
  /// The fused step's arguments without caches and slots; null for models that have none.
  std::shared_ptr<FusedStep> fused_arguments(int64_t slots, int64_t latents, int64_t context) const;
  /// The slots that the step computes, each run as sequences that follow those of the run before.
  std::vector<SlotRun> runs_of(const DecodeCaches& caches, const DecodeSlots& slots) const;
  /// The slots as they are in this rank's part of the contexts.
  DecodeSlots context_slots(Tape& tape, const DecodeCaches& caches, const DecodeSlots& slots) const;
  /// Logits [sequences of the runs, V].
  void decode_unfused(Tape& tape, const DecodeCaches& caches, const DecodeSlots& slots,
                      const std::vector<SlotRun>& runs, const Tensor& logits) const;
  /// Of `values`, as many for each slot, those of the runs' slots.
  Tensor of_runs(const Tensor& values, int64_t slots, const std::vector<SlotRun>& runs) const;
  /// logits (accumulation type) = Linear_out(z) for few rows of z, batch-invariant.
  void write_logits(Tape& tape, const Variable& z, const Tensor& logits) const;

  ModelConfig config_;
  std::shared_ptr<DeviceContext> context_;
  DType type_;
  ParameterStore parameters_;

  Variable token_embedding_;
  std::vector<Variable> position_embeddings_;  // one per axis; constants unless learnable
  ops::LinearParameters query_linear_;
  Variable learned_query_, index_encoding_;
  std::vector<ops::LinearParameters> query_mlp_;
  std::vector<CrossBlock> cross_;  // the first, then the extra ones in order
  std::vector<SelfBlock> self_;
  TransformerXL recurrent_;  ///< instead of the three above
  std::vector<int64_t>
      self_begin_;  ///< where the parameters of each block begin, and of what follows the last
  ops::NormParameters output_norm_;
  ops::LinearParameters output_;
  mutable std::mutex tables_mutex_;  ///< guards the next three: concurrent passes share them
  mutable Tensor distances_;         ///< T [positions, Z]
  /// Fixed position tables minus their row means, unrounded; only if projected.
  mutable std::vector<Tensor> fixed_positions_;
  mutable RotaryTables rotary_;
};

}  // namespace perceiver
