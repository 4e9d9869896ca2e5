// The operations of the tape: about a dozen, coarse. Each has one file in this folder with its checks, its
// forward and its hand-written backward side by side.
//
// Activations are matrices [rows, columns], rows example-major. Weights are [out, in]; all tensors of one
// call have one element type. A shape that does not fit is an internal error, since the model builds every
// call.
#pragma once

#include <span>
#include <vector>

#include "autograd/tape.h"
#include "kernels/attention.h"
#include "kernels/norm.h"
#include "perceiver/config.h"

namespace perceiver::ops {

/// One term of a sum of table rows: row r takes table[ids[r * stride + column]].
struct Lookup {
  Variable table;  ///< [entries, columns]
  Tensor ids;      ///< i32, at least rows * stride elements
  int64_t stride = 1;
  int64_t column = 0;
};

/// [rows, columns] of `type`: sum of the looked-up rows. MODEL.md section 3, x = TokenEmbedding + position
/// embeddings. Tables of another type than `type` are rounded first.
Variable embedding(Tape& tape, std::span<const Lookup> lookups, int64_t rows, DType type);

/// A dropout site: survivors are scaled by 1 / (1 - rate). `per_example` elements belong to each example.
struct DropoutSite {
  double rate = 0;
  int64_t per_example = 0;
};

struct NormParameters {
  Variable scale;   ///< [columns]
  Variable offset;  ///< [columns]
};

/// LayerNorm over the columns, eps 1e-5.
Variable layer_norm(Tape& tape, const Variable& x, const NormParameters& norm);

struct ResidualNorm {
  Variable sum;     ///< residual + dropout(branch)
  Variable normal;  ///< LayerNorm(sum)
};
/// `residual` may have no value: then sum = dropout(branch).
ResidualNorm residual_layer_norm(Tape& tape, const Variable& residual, const Variable& branch,
                                 const NormParameters& norm, DropoutSite site);

/// residual + dropout(branch).
Variable residual_add(Tape& tape, const Variable& residual, const Variable& branch, DropoutSite site);

struct LinearParameters {
  Variable weight;     ///< [out, in]
  Variable bias;       ///< [out], or no value
  Tensor narrow = {};  ///< bf16 copy of `weight` for products of few rows; the same numbers; or none
};

/// out = x · weightᵀ + bias, a row at a time, by the narrow weights where there are any; no tape's operation.
void skinny_gemm(Tape& tape, const Tensor& x, const LinearParameters& parameters, const Tensor& out);

/// activation(x · weightᵀ + bias).
Variable linear(Tape& tape, const Variable& x, const LinearParameters& parameters,
                Activation activation = Activation::identity);

/// Rotation angles by |position|, in the accumulation type.
struct RotaryTable {
  Tensor cosine;  ///< [positions, bands]
  Tensor sine;
  int64_t bands = 0;  ///< rotated pairs of channels
  int64_t heads = 0;  ///< heads that are rotated
};

/// Rotates `x` in place, from `column` on, heads of `head_dim` columns. `positions` is i32 [rows].
void rotary(Tape& tape, const Variable& x, int64_t column, int64_t head_dim, const RotaryTable& table,
            const Tensor& positions);

/// Rows that are rotated as part of another operation.
struct RotaryUse {
  RotaryTable table;
  int64_t head_dim = 0;
  Tensor positions;  ///< i32 [rows]
};

/// x less each row's mean. A constant where x is.
Variable center_rows(Tape& tape, const Variable& x);

/// x [rows, columns] with column c times scale[c].
Variable scale_columns(Tape& tape, const Variable& x, const Variable& scale);

/// LayerNorm's 1 / sqrt(variance + 1e-5) of each sum of looked-up rows, [rows], where the rows of every table
/// have mean 0. `examples` divides the rows into as many stretches (kernels::ProjectedRows).
Variable sum_rstd(Tape& tape, std::span<const Lookup> centred, int64_t rows, int64_t examples);

/// Projected tables, in the accumulation type; `rstd` [rows] and `offset` [1, columns] both or neither.
struct ProjectedTables {
  std::vector<Lookup> terms;
  Variable rstd, offset;
};

/// [rows, columns] of `type`: rotated(rstd * sum of the looked-up rows + offset), rounded once
/// (docs/projection.md). A rotation only without rstd; its first head is column 0.
Variable projected_rows(Tape& tape, const ProjectedTables& tables, const RotaryUse& rotary, int64_t rows,
                        int64_t examples, DType type);

/// Which keys each query sees; see kernels::Attention.
struct AttentionMask {
  Tensor first;     ///< i32 [batch], or none: 0
  Tensor limit;     ///< i32 [batch, queries]
  Tensor key_mask;  ///< u8 [batch, keys], or none
  bool self_visible = false;
  /// Known on the host: query i of M sees exactly the first N - M + i + 1 of N keys, in every example.
  bool plain_causal = false;
};

/// Where heads of queries, keys and values lie: columns of matrices that may be the same (packed
/// projections). Together the named columns must cover all of both matrices.
struct AttentionInputs {
  Variable q;   ///< [batch * queries, q columns]
  Variable kv;  ///< [batch * keys, kv columns]
  int64_t q_column = 0, k_column = 0, v_column = 0;
  int64_t batch = 0, heads = 0, head_dim = 0;
  AttentionBackend backend = AttentionBackend::automatic;
};

kernels::AttentionKernel attention_kernel(AttentionBackend backend);

/// [batch * queries, heads * head_dim].
Variable attention(Tape& tape, const AttentionInputs& inputs, const AttentionMask& mask);

struct LossOptions {
  double label_smoothing = 0;
  double z_loss = 0;
  const double* gradient_scale = nullptr;  ///< device: d objective / d (sum of losses); null: 1
  Tensor totals;                           ///< where to put LossResult::totals; none: a new tensor
  bool accumulate_totals = false;          ///< adds to them instead
};

struct LossResult {
  Tensor nll;      ///< accumulation type [rows]: nats of the true target; 0 at PAD targets
  Tensor loss;     ///< [rows], with smoothing and z-loss
  Tensor z;        ///< [rows], the z-loss term
  Tensor correct;  ///< u8 [rows]
  Tensor totals;   ///< f64 [5]: sums of loss, nll, z, correct, and the number of targets
};

/// Output projection and loss in chunks of rows, so that the logits are never whole in memory. `targets` is
/// i32 [rows], 0 = PAD = no loss. A root: its backward starts from *gradient_scale. MODEL.md section 4.
LossResult output_loss(Tape& tape, const Variable& x, const LinearParameters& parameters,
                       const Tensor& targets, const LossOptions& options);

/// [rows * copies, columns]: each row repeated, plus `encoding` [copies, columns].
Variable repeat_rows(Tape& tape, const Variable& x, const Variable& encoding);

/// [rows / copies, columns]: mean of each `copies` successive rows.
Variable average_rows(Tape& tape, const Variable& x, int64_t copies);

/// The mask of the tape's next dropout operation. Consumes one operation number, also where nothing is
/// dropped.
kernels::DropoutMask next_mask(Tape& tape, DropoutSite site);

}  // namespace perceiver::ops
