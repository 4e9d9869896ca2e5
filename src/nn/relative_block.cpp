#include "nn/relative_block.h"

#include "kernels/relative_attention.h"
#include "perceiver/experimental/layers.h"

namespace perceiver {
namespace {

/// Initial values of Transformer-XL's weights.
const Initialization kRelativeInitialization{.kind = Initializer::truncated_normal, .deviation = 0.02};

void declare_plain(ParameterStore& store, ops::LinearParameters& linear, const std::string& name, int64_t in,
                   int64_t out, bool bias) {
  store.declare(linear.weight, name + ".weight", {out, in}, kRelativeInitialization);
  if (bias) store.declare(linear.bias, name + ".bias", {out}, {.kind = Initializer::zeros});
}

Variable dropped(Tape& tape, const Variable& x, const RelativePass& pass) {
  if (pass.dropout <= 0) return x;
  return ops::residual_add(tape, {}, x, {pass.dropout, x.value.elements() / pass.batch});
}

/// Runs `branch` on `x`; what its backward needs is kept or recomputed. Either way the gradients of its
/// operations are added up before those of others who read `x` join, so that both round the same.
Variable branch_of(Tape& tape, const Variable& x, const RelativePass& pass,
                   std::function<Variable(Tape&, const Variable&)> branch) {
  if (pass.recompute == Recompute::attention_mlp) return recomputed(tape, x, std::move(branch));
  if (!tape.recording()) return branch(tape, x);
  const Variable input{x.value, Tape::leaf(x.value).gradient, x.restore, x.wants_column_sums, x.wants_codes};
  tape.record("branch", input, [&tape, x = x.gradient_only(), d_input = input.gradient] {
    tape.give(x, d_input->tensor, d_input->column_sums, d_input->codes);
  });
  return branch(tape, input);
}

}  // namespace

void RelativeBiases::declare(ParameterStore& store, const std::string& name, int64_t heads,
                             int64_t head_dim) {
  // No matrices of a layer: weight decay does not apply.
  store.declare(content, name + ".content_bias", {heads, head_dim}, kRelativeInitialization,
                ParameterUse::table);
  store.declare(position, name + ".position_bias", {heads, head_dim}, kRelativeInitialization,
                ParameterUse::table);
}

void RelativeBlock::declare(ParameterStore& store, const std::string& name, const ModelConfig& config) {
  name_ = name;
  heads_ = config.self_heads;
  width_ = config.self_width();
  norm_first_ = config.norm_first;
  own_biases_ = !config.shared_biases;
  const int64_t z = config.z_channels(), hidden = config.mlp_width();
  declare_norm(store, norm_, name + ".norm", z);
  declare_plain(store, q_, name + ".attention.q", z, width_, false);
  store.declare_packed(kv_.weight, {name + ".attention.k.weight", name + ".attention.v.weight"}, {width_, z},
                       kRelativeInitialization);
  declare_plain(store, position_, name + ".attention.position", z, width_, false);
  if (own_biases_) biases_.declare(store, name + ".attention", heads_, width_ / heads_);
  declare_plain(store, out_, name + ".attention.out", width_, z, false);
  declare_norm(store, norm_mlp_, name + ".norm_mlp", z);
  declare_plain(store, first_, name + ".mlp.0", z, hidden, true);
  declare_plain(store, second_, name + ".mlp.1", hidden, z, true);
  activation_ = config.activation;
}

Variable RelativeBlock::forward(Tape& tape, const Variable& z, const RelativePass& pass) const {
  tape.enter(name_);
  if (pass.recompute != Recompute::block) return plain(tape, z, pass);
  return recomputed(tape, z, [this, pass](Tape& t, const Variable& input) { return plain(t, input, pass); });
}

Variable RelativeBlock::plain(Tape& tape, const Variable& z, const RelativePass& pass) const {
  return norm_first_ ? normed_first(tape, z, pass) : normed_last(tape, z, pass);
}

Variable RelativeBlock::normed_first(Tape& tape, const Variable& z, const RelativePass& pass) const {
  const ops::DropoutSite site{pass.dropout, z.value.elements() / pass.batch};
  const Variable attended =
      branch_of(tape, z, pass, [this, pass](Tape& t, const Variable& x) { return attend(t, x, pass); });
  const auto [sum, normal] = ops::residual_layer_norm(tape, z, attended, norm_mlp_, site);
  const Variable widened =
      branch_of(tape, normal, pass, [this, pass](Tape& t, const Variable& x) { return mlp(t, x, pass); });
  return ops::residual_add(tape, sum, widened, site);
}

Variable RelativeBlock::normed_last(Tape& tape, const Variable& z, const RelativePass& pass) const {
  const ops::DropoutSite site{pass.dropout, z.value.elements() / pass.batch};
  const Variable attended =
      branch_of(tape, z, pass, [this, pass](Tape& t, const Variable& x) { return attend(t, x, pass); });
  const Variable h = ops::residual_layer_norm(tape, z, attended, norm_, site).normal;
  const Variable widened =
      branch_of(tape, h, pass, [this, pass](Tape& t, const Variable& x) { return mlp(t, x, pass); });
  return ops::residual_layer_norm(tape, h, widened, norm_mlp_, site).normal;
}

Variable RelativeBlock::positions(Tape& tape, const Variable& distances) const {
  return ops::linear(tape, distances, position_);
}

Variable RelativeBlock::attend(Tape& tape, const Variable& z, const RelativePass& pass) const {
  const auto normed = [&](const Variable& x) { return norm_first_ ? ops::layer_norm(tape, x, norm_) : x; };
  const bool decode = pass.cache != nullptr && pass.cache->decode;
  const Variable q = ops::linear(tape, normed(z), q_);
  const Variable joined = decode ? z : ops::prepend_memory(tape, pass.memory, z, pass.batch);
  const Variable kv = ops::linear(tape, normed(joined), kv_);
  if (decode) return ops::linear(tape, attend_cached(tape, q, kv, pass), out_);
  if (pass.cache != nullptr) write_cache(tape, *pass.cache, kv, 0);
  const RelativeBiases& biases = own_biases_ ? biases_ : *pass.shared_biases;
  const Variable attended = ops::relative_attention(tape, {.q = q,
                                                           .kv = kv,
                                                           .content_bias = biases.content,
                                                           .position_bias = biases.position,
                                                           .positions = positions(tape, pass.distances),
                                                           .batch = pass.batch,
                                                           .heads = heads_,
                                                           .head_dim = width_ / heads_,
                                                           .window = pass.window,
                                                           .first_key = pass.first_key,
                                                           .dropout = pass.attention_dropout});
  return ops::linear(tape, attended, out_);
}

/// Appends the keys and values of the slots' new tokens to the cache, then attends to it.
Variable RelativeBlock::attend_cached(Tape& tape, const Variable& q, const Variable& kv,
                                      const RelativePass& pass) const {
  write_cache(tape, *pass.cache, kv, 0);
  const RelativeBiases& biases = own_biases_ ? biases_ : *pass.shared_biases;
  const Variable out = tape.result(q.value.dtype(), q.shape());
  const LayerCache& layer = pass.cache->layer;
  const int64_t slot = layer.capacity * layer.kv.shape()[2];
  const auto rows = [](const Tensor& of, int64_t first, int64_t count) {
    return of.view(first, {count}).data();
  };
  for (const SlotRun& run : pass.cache->runs)
    kernels::relative_cache_attention(tape.launch(),
                                      {.type = q.value.dtype(),
                                       .cache_type = layer.kv.dtype(),
                                       .slots = run.count,
                                       .heads = heads_,
                                       .head_dim = width_ / heads_,
                                       .capacity = layer.capacity,
                                       .q = rows(q.value, run.sequence * width_, run.count * width_),
                                       .q_stride = width_,
                                       .cache = rows(layer.kv, run.slot * slot, run.count * slot),
                                       .count = pass.cache->count.as<int32_t>() + run.slot,
                                       .row = pass.cache->row.as<int32_t>() + run.slot,
                                       .content_bias = biases.content.value.data(),
                                       .position_bias = biases.position.value.data(),
                                       .positions = pass.cached_positions.data(),
                                       .distances = pass.cached_positions.shape()[0],
                                       .window = pass.window,
                                       .out = rows(out.value, run.sequence * width_, run.count * width_),
                                       .out_stride = width_});
  return out;
}

Variable RelativeBlock::mlp(Tape& tape, const Variable& x, const RelativePass& pass) const {
  const Variable hidden = ops::linear(tape, x, first_, activation_);
  return ops::linear(tape, dropped(tape, hidden, pass), second_);
}

std::vector<ops::LinearParameters*> RelativeBlock::linears() {
  return {&q_, &kv_, &out_, &first_, &second_};
}

}  // namespace perceiver
