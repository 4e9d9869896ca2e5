// The operations of the tape: about a dozen, coarse. Each is one file in src/ops/, with its checks, its
// forward and its hand-written backward side by side. The tape's comment shows how to add one of your own.
//
// Activations are matrices [rows, columns], rows example-major. Weights are [out, in]; all tensors of a call
// have the same element type (f32; f64 on the CPU; bf16 on a GPU) and are on the tape's device. Tensors of
// integers are i32. Anything else is a `user` error of the call, and so is, on the CPU, an integer out of its
// range; on a GPU those are not looked at, and the result is undefined. Results are enqueued on a GPU; the
// host does not wait. Same inputs, same bits. Unstable: may change with any version (docs/experimental.md).
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "perceiver/config.h"
#include "perceiver/experimental/tape.h"
#include "perceiver/export.h"

namespace perceiver::ops {

/// One term of a sum of table rows: row r takes table[ids[r * stride + column]].
struct Lookup {
  Variable table;  ///< [entries, columns]
  Tensor ids;      ///< i32, at least rows * stride elements
  int64_t stride = 1;
  int64_t column = 0;
};

/// [rows, columns] of `type`: sum of the looked-up rows (docs/model.md, "Forward": x = TokenEmbedding +
/// position embeddings). Tables of another type are rounded first.
PERCEIVER_API Variable embedding(Tape& tape, std::span<const Lookup> lookups, int64_t rows, DType type);
/// [ids, columns]: row ids[r] of `table` for each r, in the table's type.
PERCEIVER_API Variable embedding(Tape& tape, const Variable& table, const Tensor& ids);

/// A place where dropout is applied, if the tape is training: kept elements are scaled by 1 / (1 - rate).
/// Each example has `per_example` elements. Needs a tape with RandomKey::device_step (TrainingSteps::random).
struct DropoutSite {
  double rate = 0;
  int64_t per_example = 0;
};

struct NormParameters {
  Variable scale = {};   ///< [columns]
  Variable offset = {};  ///< [columns]
};

struct LinearParameters;

/// LayerNorm over the columns, eps 1e-5. `reader`: the linear layer, or the first one of a feed-forward
/// layer, that alone reads the result, if there is one: where it multiplies in 8 bits, the result is
/// quantised for it as it is computed (Variable::codes).
PERCEIVER_API Variable layer_norm(Tape& tape, const Variable& x, const NormParameters& norm,
                                  const LinearParameters* reader = nullptr);

struct ResidualNorm {
  Variable sum;     ///< residual + dropout(branch)
  Variable normal;  ///< LayerNorm(sum)
};
/// Without a value of `residual`, sum = dropout(branch). `reader`: of `normal`, as above.
PERCEIVER_API ResidualNorm residual_layer_norm(Tape& tape, const Variable& residual, const Variable& branch,
                                               const NormParameters& norm, DropoutSite site,
                                               const LinearParameters* reader = nullptr);

/// residual + dropout(branch); dropout(branch) without a value of `residual`.
PERCEIVER_API Variable residual_add(Tape& tape, const Variable& residual, const Variable& branch,
                                    DropoutSite site);

struct Fp8Layer;  // src/ops/fp8.h

struct LinearParameters {
  Variable weight = {};  ///< [out, in]
  Variable bias = {};    ///< [out], or no value
  /// Optional copy of `weight` with the same values, bf16, i8 or e4m3, for skinny GEMMs. Where `weight` has
  /// no contents (Tensor::without_contents), the weights alone: other products make `weight` of them.
  Tensor narrow_weight = {};
  Tensor narrow_scale = {};  ///< i8 and e4m3: f32 [out], weight = narrow_scale * narrow_weight
  std::shared_ptr<const Fp8Layer> fp8 = {};  ///< train.precision: fp8; set by the library itself
};

/// activation(x · weightᵀ + bias), plus `residual` if it has a value, rounded once, without an activation
/// then.
PERCEIVER_API Variable linear(Tape& tape, const Variable& x, const LinearParameters& parameters,
                              Activation activation = Activation::identity, const Variable& residual = {});

/// second(activation(first(x))), plus `residual`, of the result's shape, if it has a value.
PERCEIVER_API Variable feed_forward(Tape& tape, const Variable& x, const LinearParameters& first,
                                    Activation activation, const LinearParameters& second,
                                    const Variable& residual = {});

/// Rotation angles indexed by |position|, in the accumulation type (Su et al. 2021, "RoFormer";
/// docs/model.md, "Positions").
struct RotaryTable {
  Tensor cosine = {};  ///< [positions, bands]
  Tensor sine = {};
  int64_t bands = 0;  ///< rotated pairs of channels
  int64_t heads = 0;  ///< heads that are rotated
};

/// What a rotary table depends on besides its size.
struct RotaryOptions {
  double fraction = 0.5;      ///< of the channels of a head
  double head_fraction = 1;   ///< of the heads: the first ones are rotated
  double max_wavelength = 0;  ///< positions; 0: as many as the table has
  /// Not 0: the frequencies are base^(-2t/r), computed in f32, for the pairs t of r = floor(head_dim *
  /// fraction) channels, and the number of pairs is rounded up. Otherwise wavelengths are geometric: 2 pi
  /// times 1 to max_wavelength.
  double base = 0;
};

/// The table for positions below `positions` of `heads` heads of `head_dim` channels that compute in `type`.
PERCEIVER_API RotaryTable make_rotary_table(DeviceContext& context, DType type, int64_t positions,
                                            int64_t heads, int64_t head_dim,
                                            const RotaryOptions& options = {});

/// Rotates `x` in place: heads of `head_dim` columns, the first at `column`. `positions` is i32 [rows].
/// Nothing else may read the unrotated `x`.
PERCEIVER_API void rotary(Tape& tape, const Variable& x, int64_t column, int64_t head_dim,
                          const RotaryTable& table, const Tensor& positions);

/// The keys each query sees: query i of example b the keys n with first[b] <= n < limit[b, i] and key_mask[b,
/// n]
/// != 0, and (where `self_visible`) always key i itself if it lies in that range. limit must not decrease
/// with i. A query that sees nothing gets 0.
struct AttentionMask {
  Tensor first = {};     ///< i32 [batch]; none: 0
  Tensor limit = {};     ///< i32 [batch, queries]
  Tensor key_mask = {};  ///< u8 [batch, keys], or none
  bool self_visible = false;
  /// Known on the host: query i of M sees exactly the first N - M + i + 1 of N keys, in every example.
  bool plain_causal = false;
};

/// Each of `length` queries sees the keys up to its own, of as many.
PERCEIVER_API AttentionMask causal_mask(DeviceContext& context, int64_t batch, int64_t length);
/// Each of `queries` sees all of `keys`.
PERCEIVER_API AttentionMask full_mask(DeviceContext& context, int64_t batch, int64_t queries, int64_t keys);

/// Where the heads of queries, keys and values are: columns of matrices that may be the same (packed
/// projections). Together these columns must cover both matrices completely.
struct AttentionInputs {
  Variable q;   ///< [batch * queries, q columns]
  Variable kv;  ///< [batch * keys, kv columns]
  int64_t q_column = 0, k_column = 0, v_column = 0;
  int64_t batch = 0, heads = 0, head_dim = 0;
  AttentionBackend backend = AttentionBackend::automatic;
  /// With bands: queries and keys are rotated first, in place, as by `rotary`. Nothing else may read them.
  RotaryTable rotary = {};
  Tensor query_positions = {};  ///< i32 [batch * queries]
  Tensor key_positions = {};    ///< i32 [batch * keys]
  /// q and kv are rotated already; their gradients are still those before the rotation.
  bool rotated = false;
  /// The linear layer that alone reads the result, if known: that is left in 8 bits for it, too, where it
  /// multiplies in 8 bits.
  const LinearParameters* reader = nullptr;
};

/// [batch * queries, heads * head_dim]: softmax(q kᵀ / sqrt(head_dim)) v of each head, without a score matrix
/// in memory.
PERCEIVER_API Variable attention(Tape& tape, const AttentionInputs& inputs, const AttentionMask& mask);

struct LossOptions {
  double label_smoothing = 0;
  double z_loss = 0;
  /// In device memory: d objective / d (sum of losses), as TrainingSteps::loss_scale; null: 1.
  const double* gradient_scale = nullptr;
  Tensor totals = {};              ///< destination of LossResult::totals; none: a new tensor
  bool accumulate_totals = false;  ///< add to `totals` instead of overwriting them
};

struct LossResult {
  Tensor nll;          ///< accumulation type [rows]: nats of the true target; 0 at PAD targets
  Tensor loss;         ///< [rows], with smoothing and z-loss
  Tensor z;            ///< [rows], the z-loss term
  Tensor correct;      ///< u8 [rows]
  Tensor totals = {};  ///< f64 [5]: sums of loss, nll, z, correct, and the number of targets
};

/// Output projection and loss, in chunks of rows, so that the logits are never in memory all at once
/// (docs/model.md, "Training"). `targets` is i32 [rows], 0 = PAD = no loss. A root: its backward starts from
/// *gradient_scale.
PERCEIVER_API LossResult output_loss(Tape& tape, const Variable& x, const LinearParameters& parameters,
                                     const Tensor& targets, const LossOptions& options);

/// Replaces rows of `x` in place: row `rows[r]` becomes row r of `values`, unless it is negative. `rows` is
/// i32 [rows of `values`], each at most once. Nothing else may read the replaced rows of `x`, and what made
/// `x` must not compute it again (as layer_norm does).
PERCEIVER_API void place_rows(Tape& tape, const Variable& x, const Variable& values, const Tensor& rows);

/// [rows * copies, columns]: each row repeated `copies` times, plus `encoding` [copies, columns].
PERCEIVER_API Variable repeat_rows(Tape& tape, const Variable& x, const Variable& encoding);

/// [rows / copies, columns]: mean of each group of `copies` successive rows.
PERCEIVER_API Variable average_rows(Tape& tape, const Variable& x, int64_t copies);

}  // namespace perceiver::ops
