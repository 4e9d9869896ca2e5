#include "nn/blocks.h"
#include "base/check.h"
#include "ops/linear_rotary.h"
#include "ops/projection.h"
#include "ops/wide_weight.h"

#include <vector>

namespace perceiver {
namespace {

/// Projections `parts` (such as q, k, v) of one input, packed into one weight.
void declare_packed_linear(ParameterStore& store, ops::LinearParameters& linear, const std::string& name,
                           const std::vector<std::string>& parts, int64_t in, int64_t out, bool bias) {
  std::vector<std::string> weights, biases;
  for (const std::string& part : parts) {
    weights.push_back(name + "." + part + ".weight");
    biases.push_back(name + "." + part + ".bias");
  }
  store.declare_packed(linear.weight, weights, {out, in}, {.kind = Initializer::fan_in});
  if (bias) store.declare_packed(linear.bias, biases, {out}, {.kind = Initializer::zeros});
}

/// Runs `branch` on `x`; what its backward needs is kept or recomputed.
Variable run_branch(Tape& tape, const Variable& x, Recompute recompute,
                    std::function<Variable(Tape&, const Variable&)> branch) {
  return recompute == Recompute::attention_mlp ? recomputed(tape, x, std::move(branch)) : branch(tape, x);
}

/// The layer that alone reads a branch's input, for ops::layer_norm: none where the branch is recomputed from
/// it.
const ops::LinearParameters* reader(const BlockPass& pass, const ops::LinearParameters& layer) {
  return pass.recompute == Recompute::attention_mlp ? nullptr : &layer;
}

int64_t per_example(const Variable& z, const BlockPass& pass) {
  return z.value.elements() / pass.batch;
}

/// Whether the last product of a branch adds the residual by itself, and rounds once: in training, where
/// nothing of the branch is dropped. Elsewhere the branch is rounded before, as it is in cached steps, which
/// are to agree with passes over all tokens.
bool adds_itself(const Tape& tape, const BlockPass& pass) {
  return tape.training() && pass.residual_dropout == 0;
}

/// z + attended, and its LayerNorm. `added`: what `attended` has of it already, z or nothing.
ops::ResidualNorm add_attention(Tape& tape, const Variable& z, const Variable& attended,
                                const Variable& added, const ops::NormParameters& norm,
                                const ops::DropoutSite& site, const ops::LinearParameters* reader) {
  if (!added.value) return ops::residual_layer_norm(tape, z, attended, norm, site, reader);
  return {attended, ops::layer_norm(tape, attended, norm, reader)};
}

/// sum + mlp(normal), the end of a block.
Variable add_mlp(Tape& tape, const Mlp& mlp, const Variable& sum, const Variable& normal,
                 const BlockPass& pass, const ops::DropoutSite& site) {
  const bool adds = adds_itself(tape, pass);
  const Variable added = adds ? sum : Variable{};
  const Variable result = run_branch(tape, normal, pass.recompute, [&mlp, added](Tape& t, const Variable& h) {
    return mlp.forward(t, h, added);
  });
  return adds ? result : ops::residual_add(tape, sum, result, site);
}

}  // namespace

void SelfBlock::declare(ParameterStore& store, const std::string& name, const ModelConfig& config) {
  name_ = name;
  heads_ = config.self_heads;
  channels_ = config.z_channels();
  width_ = config.self_width();
  const bool bias = config.biases == Biases::all;
  declare_norm(store, norm_, name + ".norm", channels_);
  declare_packed_linear(store, qkv_, name + ".attention", {"q", "k", "v"}, channels_, width_, bias);
  declare_linear(store, out_, name + ".attention.out", width_, channels_, Initializer::fan_in, bias);
  declare_norm(store, norm_mlp_, name + ".norm_mlp", channels_);
  mlp_.declare(store, name + ".mlp", channels_, config.self_widening, config.activation, bias);
}

Variable SelfBlock::forward(Tape& tape, const Variable& z, const BlockPass& pass) const {
  tape.enter(name_);
  if (pass.recompute != Recompute::block) return plain(tape, z, pass);
  return recomputed(tape, z, [this, pass](Tape& t, const Variable& input) { return plain(t, input, pass); });
}

Variable SelfBlock::plain(Tape& tape, const Variable& z, const BlockPass& pass) const {
  const ops::DropoutSite site{pass.residual_dropout, per_example(z, pass)};
  const Variable added = adds_itself(tape, pass) ? z : Variable{};
  const Variable attended =
      run_branch(tape, ops::layer_norm(tape, z, norm_, reader(pass, qkv_)), pass.recompute,
                 [this, pass, added](Tape& t, const Variable& h) { return attend(t, h, pass, added); });
  const auto [sum, normal] =
      add_attention(tape, z, attended, added, norm_mlp_, site, reader(pass, mlp_.first()));
  return add_mlp(tape, mlp_, sum, normal, pass, site);
}

Variable SelfBlock::attend(Tape& tape, const Variable& normal, const BlockPass& pass,
                           const Variable& residual) const {
  const int64_t head_dim = width_ / heads_;
  PERCEIVER_ASSERT(pass.query_positions.data() == pass.key_positions.data());
  const Variable qkv = ops::linear_rotary(tape, normal, qkv_,
                                          {.table = pass.rotary,
                                           .positions = pass.query_positions,
                                           .head_dim = head_dim,
                                           .parts = 2,
                                           .part_columns = width_,
                                           .reader_rotates_back = true});
  const ops::AttentionInputs inputs{.q = qkv,
                                    .kv = qkv,
                                    .q_column = 0,
                                    .k_column = width_,
                                    .v_column = 2 * width_,
                                    .batch = pass.batch,
                                    .heads = heads_,
                                    .head_dim = head_dim,
                                    .backend = pass.attention,
                                    .rotary = pass.rotary,
                                    .query_positions = pass.query_positions,
                                    .key_positions = pass.key_positions,
                                    .rotated = true,
                                    .reader = &out_};
  if (pass.cache != nullptr && pass.cache->decode) {
    write_cache(tape, *pass.cache, qkv, width_);
    return ops::linear(tape, attend_cache(tape, *pass.cache, qkv, heads_, head_dim, pass.rotary), out_);
  }
  const Variable attended = ops::attention(tape, inputs, pass.mask);
  if (pass.cache != nullptr) write_cache(tape, *pass.cache, qkv, width_);
  return ops::linear(tape, attended, out_, Activation::identity, residual);
}

std::vector<ops::LinearParameters*> SelfBlock::linears() {
  std::vector<ops::LinearParameters*> all = mlp_.linears();
  all.insert(all.end(), {&qkv_, &out_});
  return all;
}

void CrossBlock::declare(ParameterStore& store, const std::string& name, const ModelConfig& config) {
  store_ = &store;
  name_ = name;
  heads_ = config.cross_heads;
  query_residual_ = config.query_residual;
  own_latent_keys_ = config.latent_keys == LatentKeys::latents;
  const int64_t e = config.input_channels, z = config.z_channels();
  width_ = config.cross_width();
  const bool bias = config.biases == Biases::all;
  declare_norm(store, norm_q_, name + ".norm_q", z);
  declare_norm(store, norm_kv_, name + ".norm_kv", e);
  declare_linear(store, q_, name + ".attention.q", z, width_, Initializer::fan_in, bias);
  declare_packed_linear(store, kv_, name + ".attention", {"k", "v"}, e, width_, bias);
  for (const Variable* read : {&norm_kv_.scale, &norm_kv_.offset, &kv_.weight})
    store.keep_unrounded(*read);  // by the projection of tables
  if (bias) store.keep_unrounded(kv_.bias);
  declare_linear(store, out_, name + ".attention.out", width_, z, Initializer::fan_in,
                 config.biases != Biases::none);
  declare_norm(store, norm_mlp_, name + ".norm_mlp", z);
  mlp_.declare(store, name + ".mlp", z, config.cross_widening, config.activation, bias);
}

Variable CrossBlock::forward(Tape& tape, const Variable& z, const Context& context,
                             const BlockPass& pass) const {
  tape.enter(name_);
  if (pass.recompute != Recompute::block) return plain(tape, z, context, pass);
  return recomputed(tape, z, [this, pass, context](Tape& t, const Variable& input) {
    return plain(t, input, context, pass);
  });
}

Variable CrossBlock::plain(Tape& tape, const Variable& z, const Context& context,
                           const BlockPass& pass) const {
  const ops::DropoutSite site{pass.residual_dropout, per_example(z, pass)};
  const Variable residual = query_residual_ ? z : Variable{};
  const Variable added = adds_itself(tape, pass) ? residual : Variable{};
  const Variable attended =
      run_branch(tape, ops::layer_norm(tape, z, norm_q_, own_latent_keys_ ? nullptr : reader(pass, q_)),
                 pass.recompute, [this, pass, context, added](Tape& t, const Variable& h) {
                   return attend(t, h, context, pass, added);
                 });
  const auto [sum, normal] =
      add_attention(tape, residual, attended, added, norm_mlp_, site, reader(pass, mlp_.first()));
  return add_mlp(tape, mlp_, sum, normal, pass, site);
}

Variable CrossBlock::attend(Tape& tape, const Variable& normal, const Context& context, const BlockPass& pass,
                            const Variable& residual) const {
  const int64_t head_dim = width_ / heads_;
  const Variable q = ops::linear_rotary(tape, normal, q_, rotation(pass, pass.query_positions));
  if (pass.cache != nullptr && pass.cache->decode)
    return ops::linear(tape, attend_decoding(tape, q, normal, context, pass), out_);
  const Variable kv = keys_and_values(tape, context, pass, q.value.dtype());
  if (own_latent_keys_)
    ops::place_rows(tape, kv, latent_keys_and_values(tape, normal, pass), pass.latent_rows);
  if (pass.cache != nullptr) write_cache(tape, *pass.cache, kv, 0);
  const ops::AttentionInputs inputs{.q = q,
                                    .kv = kv,
                                    .q_column = 0,
                                    .k_column = 0,
                                    .v_column = width_,
                                    .batch = pass.batch,
                                    .heads = heads_,
                                    .head_dim = head_dim,
                                    .backend = pass.attention,
                                    .reader = &out_};
  const Variable attended = pass.key_shards.group == nullptr
                                ? ops::attention(tape, inputs, pass.mask)
                                : ops::sharded_attention(tape, inputs, pass.mask, pass.key_shards);
  return ops::linear(tape, attended, out_, Activation::identity, residual);
}

/// Of queries or keys, the first columns of a layer's result.
ops::LinearRotation CrossBlock::rotation(const BlockPass& pass, const Tensor& positions) const {
  return {.table = pass.rotary, .positions = positions, .head_dim = width_ / heads_, .part_columns = width_};
}

/// Appends the keys and values of the new tokens to the cache, then attends to it with rotated queries.
Variable CrossBlock::attend_decoding(Tape& tape, const Variable& q, const Variable& normal,
                                     const Context& context, const BlockPass& pass) const {
  if (pass.cache->layer.kv) write_cache(tape, *pass.cache, new_rows(tape, normal, context, pass), 0);
  return attend_cache(tape, *pass.cache, q, heads_, width_ / heads_, pass.rotary, pass.key_shards.group);
}

/// Keys, rotated, and values of the slots' new tokens.
Variable CrossBlock::new_rows(Tape& tape, const Variable& normal, const Context& context,
                              const BlockPass& pass) const {
  if (own_latent_keys_) return latent_keys_and_values(tape, normal, pass);
  const DType type = normal.value.dtype();
  const LayerCache& layer = pass.cache->layer;
  if (!layer.table) return keys_and_values(tape, context, pass, type);
  const Tensor& ids = context.tables[0].ids;
  const ops::Lookup lookup{.table = Tape::constant(layer.table), .ids = ids};
  const Variable kv = ops::embedding(tape, {&lookup, 1}, ids.elements(), type);
  ops::rotary(tape, kv, 0, width_ / heads_, pass.rotary, pass.key_positions);
  return kv;
}

std::vector<ops::LinearParameters*> CrossBlock::linears() {
  std::vector<ops::LinearParameters*> all = mlp_.linears();
  all.insert(all.end(), {&q_, &kv_, &out_});
  return all;
}

Variable CrossBlock::keys_and_values(Tape& tape, const Context& context, const BlockPass& pass,
                                     DType type) const {
  if (!context.x.value) return projected(tape, context, pass, type);
  return ops::linear_rotary(tape, ops::layer_norm(tape, context.x, norm_kv_, &kv_), kv_,
                            rotation(pass, pass.key_positions));
}

Variable CrossBlock::latent_keys_and_values(Tape& tape, const Variable& normal, const BlockPass& pass) const {
  return ops::linear_rotary(tape, normal, kv_, rotation(pass, pass.query_positions));
}

Variable CrossBlock::projected(Tape& tape, const Context& context, const BlockPass& pass, DType type) const {
  // All in the accumulation type, with unrounded weights: the gradients of table rows are sums over the whole
  // batch, which must not be rounded before the products.
  const ops::NormParameters norm{store_->unrounded(norm_kv_.scale), store_->unrounded(norm_kv_.offset)};
  const bool narrow = kv_.weight.value.data() == nullptr;
  const ops::LinearParameters kv{narrow ? Tape::constant(ops::wide_weight(tape, kv_, accumulation_type(type)))
                                        : store_->unrounded(kv_.weight),
                                 kv_.bias.value ? store_->unrounded(kv_.bias) : Variable{}};
  ops::ProjectedTables tables{.terms = context.tables, .rstd = context.rstd};
  if (context.rstd.value) {
    const ops::LinearParameters scaled{ops::scale_columns(tape, kv.weight, norm.scale), {}};
    for (ops::Lookup& term : tables.terms) term.table = ops::linear(tape, term.table, scaled);
    const Variable row{norm.offset.value.reshaped({1, norm.offset.value.elements()}), norm.offset.gradient};
    tables.offset = ops::linear(tape, row, kv);
  } else {
    for (ops::Lookup& term : tables.terms)
      term.table = ops::linear(tape, ops::layer_norm(tape, term.table, norm), kv);
  }
  const int64_t rows = context.tables[0].ids.elements();
  const int64_t head_dim = width_ / heads_;
  if (!context.rstd.value)
    return ops::projected_rows(tape, tables,
                               {.table = pass.rotary, .head_dim = head_dim, .positions = pass.key_positions},
                               rows, pass.batch, type);
  const Variable keys = ops::projected_rows(tape, tables, {}, rows, pass.batch, type);
  ops::rotary(tape, keys, 0, head_dim, pass.rotary, pass.key_positions);
  return keys;
}

}  // namespace perceiver
