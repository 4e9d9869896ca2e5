// The two blocks of Perceiver AR (docs/model.md, "Forward"): CrossBlock attends from the latents to the
// context, SelfBlock attends among the latents.
#pragma once

#include <string>
#include <vector>

#include "nn/cache.h"
#include "ops/linear_rotary.h"
#include "ops/sharded_attention.h"
#include "perceiver/config.h"
#include "perceiver/experimental/layers.h"
#include "perceiver/experimental/ops.h"
#include "perceiver/experimental/parameters.h"

namespace perceiver::kernels {
struct DecodeCross;
struct DecodeSelf;
}  // namespace perceiver::kernels

namespace perceiver {

/// What a block needs to know about a pass besides its latents.
struct BlockPass {
  int64_t batch = 0;
  ops::AttentionMask mask = {};
  ops::RotaryTable rotary = {};  ///< for the heads of this kind of block
  Tensor query_positions = {};   ///< i32 [B * M] (rotary)
  Tensor key_positions = {};     ///< i32 [B * keys] (rotary)
  double residual_dropout = 0;
  Recompute recompute = Recompute::none;
  AttentionBackend attention = AttentionBackend::automatic;
  /// Cross blocks whose latents have keys of their own: i32 [B * M], the row of each latent's token among
  /// those of the context, or -1.
  Tensor latent_rows = {};
  const CachePass* cache = nullptr;  ///< generation: the KV cache
  ops::KeyShards key_shards = {};    ///< cross blocks: the ranks that share the context
};

class SelfBlock {
 public:
  void declare(ParameterStore& store, const std::string& name, const ModelConfig& config);
  /// z [B * M, Z] → [B * M, Z].
  Variable forward(Tape& tape, const Variable& z, const BlockPass& pass) const;
  /// The parameters of all linear layers.
  std::vector<ops::LinearParameters*> linears();
  /// Pointers to the parameters, for the fused decode step.
  kernels::DecodeSelf fused_arguments() const;

 private:
  Variable plain(Tape& tape, const Variable& z, const BlockPass& pass) const;
  Variable attend(Tape& tape, const Variable& normal, const BlockPass& pass, const Variable& residual) const;

  std::string name_;
  int64_t heads_ = 1, channels_ = 0, width_ = 0;
  ops::NormParameters norm_, norm_mlp_;
  ops::LinearParameters qkv_, out_;
  Mlp mlp_;
};

/// What a CrossBlock reads: embedded tokens, or token ids and positions with their tables. Keys and values
/// are functions of token and position only: projecting the tables and gathering gives the same numbers as
/// gathering and projecting, at the cost of the tables' rows instead of B * C (docs/projection.md).
struct Context {
  Variable x = {};                       ///< [B * C, E]; no value: use `tables`
  std::vector<ops::Lookup> tables = {};  ///< unrounded; minus their row means if positions are absolute
  Variable rstd = {};                    ///< [B * C], of the sums of table rows; only for absolute positions
};

class CrossBlock {
 public:
  void declare(ParameterStore& store, const std::string& name, const ModelConfig& config);
  /// z [B * M, Z] → [B * M, Z].
  Variable forward(Tape& tape, const Variable& z, const Context& context, const BlockPass& pass) const;
  /// Keys, rotated, and values, [B * C, 2 A] of `type`.
  Variable keys_and_values(Tape& tape, const Context& context, const BlockPass& pass, DType type) const;
  /// The parameters of all linear layers.
  std::vector<ops::LinearParameters*> linears();
  /// Pointers to the parameters, for the fused decode step.
  kernels::DecodeCross fused_arguments() const;

 private:
  Variable plain(Tape& tape, const Variable& z, const Context& context, const BlockPass& pass) const;
  Variable attend(Tape& tape, const Variable& normal, const Context& context, const BlockPass& pass,
                  const Variable& residual) const;
  Variable projected(Tape& tape, const Context& context, const BlockPass& pass, DType type) const;
  ops::LinearRotation rotation(const BlockPass& pass, const Tensor& positions) const;
  /// Keys, rotated, and values of the latents, [B * M, 2 A], made of their normalised values.
  Variable latent_keys_and_values(Tape& tape, const Variable& normal, const BlockPass& pass) const;
  Variable attend_decoding(Tape& tape, const Variable& q, const Variable& normal, const Context& context,
                           const BlockPass& pass) const;
  Variable new_rows(Tape& tape, const Variable& normal, const Context& context, const BlockPass& pass) const;

  const ParameterStore* store_ = nullptr;
  std::string name_;
  int64_t heads_ = 1, width_ = 0;
  bool query_residual_ = true, own_latent_keys_ = false;
  ops::NormParameters norm_q_, norm_kv_, norm_mlp_;
  ops::LinearParameters q_, kv_, out_;
  Mlp mlp_;
};

}  // namespace perceiver
