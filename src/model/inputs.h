// Turns a batch of token rows into what one pass of the model reads: aligned latents, visibility limits,
// positions, kept context (docs/model.md, sections 1 to 4). Integer work on the host, linear in batch *
// context.
#pragma once

#include "model/batch.h"
#include "perceiver/config.h"
#include "perceiver/experimental/ops.h"
#include "perceiver/experimental/tensor.h"

namespace perceiver {

class Communicator;
struct SegmentMemory;

/// Options of a pass of the model over a batch.
struct PassOptions {
  int64_t latents = 0;    ///< M of this pass; 0: as configured
  bool training = false;  ///< dropout, context and latent dropout, train_input_positions
  RandomKey random;       ///< of this pass
  /// The ranks that share the context of every example; null: none. Each passes the same batch and computes
  /// with its part of the columns. The group must outlive the inputs.
  Communicator* context_group = nullptr;
  /// Transformer-XL: what is remembered of the rows' streams, row b's being stream first_stream + b. The pass
  /// reads it and writes what comes next beside it; it must outlive the inputs. Null: nothing.
  const SegmentMemory* memory = nullptr;
  int64_t first_stream = 0;
};

/// Device tensors of one pass. B examples, C context columns (the row's length, or train_input_positions; of
/// a shared context, what rank 0 has of them, the most: model/context_share.h), U = M / K latent positions, M
/// latents, A axes.
struct ModelInputs {
  int64_t batch = 0, columns = 0, latents = 0, latent_positions = 0;

  Tensor tokens;            ///< i32 [B * C]
  Tensor positions;         ///< i32 [B * C, A], table rows (absolute)
  Tensor rotary_positions;  ///< i32 [B * C] (rotary)

  Tensor latent_tokens;            ///< i32 [B * U]
  Tensor latent_table_positions;   ///< i32 [B * U, A] (absolute)
  Tensor latent_rotary_positions;  ///< i32 [B * M] (rotary)
  Tensor latent_rows;              ///< i32 [B * U]: row of the learned query table
  Tensor latent_columns;  ///< i32 [B * M]: each latent's row among B * C, or -1 (latent_keys latents)
  Tensor targets;         ///< i32 [B * U], 0 where there is nothing to predict

  ops::AttentionMask cross, self;
  /// Instead of that in `cross`, for each cross-attention but the first (context_dropout_from prefix).
  std::vector<Tensor> extra_key_masks;

  Communicator* context_group = nullptr;  ///< as in PassOptions; null if it is of one rank

  // Transformer-XL: `latent_tokens` and `targets` are the segment, padded on the right; the keys are m rows
  // of memory, then the segment.
  const SegmentMemory* memory = nullptr;  ///< as in PassOptions
  int64_t first_stream = 0;
  int64_t memory_length = 0;  ///< m
  int64_t window = 0;         ///< keys that each token sees; 0: no limit
  Tensor remembered;          ///< i32 [B], rows of the memory that hold something, the last ones
  Tensor first_key;           ///< i32 [B], the first key that is seen
  Tensor distances;           ///< T [min(m + N, clamp_length + 1), Z]: encoded distances 0, 1, …

  std::vector<int32_t> first_keys;  ///< host [B], as `first_key`

  std::vector<int32_t> steps;     ///< host [B, U]: s(b, u), -1 where invalid
  int64_t target_count = 0;       ///< targets that are not PAD
  int64_t largest_position = 0;   ///< of |rotary position|
  int64_t rotary_table_rows = 0;  ///< of the model's tables at the time these inputs were made
};

/// Tensors of `inputs` that have the right size are overwritten in place, so that a recorded step finds its
/// inputs at the same addresses. Throws `user` for ids outside the vocabulary, positions outside their
/// tables, lengths that disagree with the row, or a number of latents the model cannot take.
void make_inputs(DeviceContext& context, const ModelConfig& config, const Batch& batch,
                 const PassOptions& options, ModelInputs& inputs);

/// Number of non-PAD targets that a pass with `latents` latents scores in `batch`, without running it.
int64_t count_targets(const ModelConfig& config, const Batch& batch, int64_t latents);

}  // namespace perceiver
