// Fills in the arguments of the fused decode step from the model's parameters.
#include "model/fused_step.h"

#include "base/check.h"
#include "kernels/dequantize.h"
#include "model/perceiver_ar.h"

namespace perceiver {
namespace {

kernels::DecodeLinear fused(const ops::LinearParameters& linear) {
  const Tensor& weight =
      kernels::is_narrow(linear.narrow_weight.dtype()) ? linear.narrow_weight : linear.weight.value;
  return {.weight = weight.data(), .bias = linear.bias.value.data()};
}

kernels::DecodeNorm fused(const ops::NormParameters& norm) {
  return {.scale = norm.scale.value.data(), .offset = norm.offset.value.data()};
}

kernels::DecodeRotary fused(const ops::RotaryTable& table) {
  return {
      .cosine = table.cosine.data(), .sine = table.sine.data(), .bands = table.bands, .heads = table.heads};
}

/// Where row `row` of a tensor [..., columns] starts.
void* row_of(const Tensor& rows, int64_t row) {
  return rows.view(row * rows.shape().last(), {1}).data();
}

}  // namespace

#ifdef PERCEIVER_CUDA
void run_fused(Tape& tape, const FusedStep& fused, const Tensor& logits) {
  PERCEIVER_ASSERT(logits.dtype() == DType::f32);
  kernels::DecodeStep step = fused.step;
  step.logits = logits.as<float>() + fused.slots.first * step.vocabulary;
  kernels::cuda::decode_step(tape.launch(), step);
}
#else
void run_fused(Tape&, const FusedStep&, const Tensor&) {
  PERCEIVER_ASSERT(false);  // decode_supports() is false without CUDA
}
#endif

kernels::DecodeSelf SelfBlock::fused_arguments() const {
  return {.norm = fused(norm_),
          .norm_mlp = fused(norm_mlp_),
          .qkv = fused(qkv_),
          .out = fused(out_),
          .mlp_0 = fused(mlp_.first()),
          .mlp_1 = fused(mlp_.second())};
}

kernels::DecodeCross CrossBlock::fused_arguments() const {
  return {.norm_q = fused(norm_q_),
          .norm_kv = fused(norm_kv_),
          .norm_mlp = fused(norm_mlp_),
          .q = fused(q_),
          .kv = fused(kv_),
          .out = fused(out_),
          .mlp_0 = fused(mlp_.first()),
          .mlp_1 = fused(mlp_.second())};
}

std::shared_ptr<FusedStep> PerceiverAR::fused_arguments(int64_t slots, int64_t latents,
                                                        int64_t context) const {
  const std::vector<int64_t>& extra = config_.extra_cross_attention_after;
  const bool fits = !cross_.empty() && config_.latents_per_position == 1 && config_.query_projection &&
                    config_.biases == Biases::all && config_.output_norm && config_.output_bias &&
                    config_.latent_keys == LatentKeys::tokens && config_.rotary_layers < 0 &&
                    config_.position_encoding != PositionEncoding::both &&
                    config_.self_width() == config_.z_channels() && (extra.empty() || extra.front() >= 0) &&
                    config_.query_style != QueryStyle::learned &&
                    query_mlp_.size() <= kernels::kMaxDecodeQueryLayers &&
                    position_embeddings_.size() <= kernels::kMaxDecodeTables;
  if (!fits) return nullptr;
  auto fused_step = std::make_shared<FusedStep>();
  for (const CrossBlock& block : cross_) fused_step->cross.push_back(block.fused_arguments());
  for (const SelfBlock& block : self_) fused_step->self.push_back(block.fused_arguments());
  fused_step->cross_after = config_.extra_cross_attention_after;

  kernels::DecodeStep& k = fused_step->step;
  k.type = type_;
  k.weight_type = weight_type();
  k.slots = slots;
  k.vocabulary = config_.vocabulary;
  k.input_channels = config_.input_channels;
  k.latent_channels = config_.z_channels();
  k.attention_width = config_.cross_width();
  k.cross_heads = config_.cross_heads;
  k.self_heads = config_.self_heads;
  k.cross_widening = config_.cross_widening;
  k.self_widening = config_.self_widening;
  k.layers = config_.layers;
  k.cross_blocks = static_cast<int64_t>(cross_.size());
  k.context_rows = context;
  k.latent_rows = latents;
  k.activation = config_.activation;
  k.query_residual = config_.query_residual;
  k.query_offset = config_.query_offset ? 1 : 0;
  k.token_embedding = token_embedding_.value.data();
  k.position_tables = static_cast<int>(position_embeddings_.size());
  for (size_t axis = 0; axis < position_embeddings_.size(); ++axis)
    k.position_table[axis] = position_embeddings_[axis].value.data();
  k.query = fused(query_linear_);
  k.query_layers = static_cast<int>(query_mlp_.size());
  for (size_t i = 0; i < query_mlp_.size(); ++i) k.query_mlp[i] = fused(query_mlp_[i]);
  k.query_activation = config_.query_activation;
  k.cross = fused_step->cross.data();
  k.cross_after = fused_step->cross_after.data();
  k.self = fused_step->self.data();
  k.output_norm = fused(output_norm_);
  k.output = fused(output_);
  return fused_step;
}

bool PerceiverAR::has_fused_step(int64_t slots, int64_t latents, int64_t context, bool by_table,
                                 DType cache_type) const {
  const auto fused_step = fused_arguments(slots, latents, context);
  if (fused_step == nullptr) return false;
  const RotaryTables rotary = rotary_tables();
  kernels::DecodeStep& k = fused_step->step;
  k.cross_rotary = fused(rotary.cross);
  k.self_rotary = fused(rotary.self);
  k.cache_type = cache_type;
  // The answer does not depend on the contents of the caches: any address stands in for them.
  void* place = token_embedding_.value.data();
  k.self_kv = place;
  k.logits = static_cast<float*>(place);
  if (by_table) {
    k.context_table = place;
    k.context_tokens = k.context_positions = static_cast<int32_t*>(place);
  } else {
    k.context_kv = place;
  }
  return kernels::decode_supports(context_->launch(), k);
}

std::shared_ptr<const FusedStep> PerceiverAR::fused_step(const DecodeCaches& caches, const DecodeSlots& slots,
                                                         SlotRange range, const Tensor& workspace) const {
  if (caches.context_group != nullptr) return nullptr;  // one kernel cannot wait for other ranks
  auto fused_step = fused_arguments(range.count, caches.latents, caches.context);
  if (fused_step == nullptr) return nullptr;
  fused_step->slots = range;
  kernels::DecodeStep& k = fused_step->step;
  k.cross_rotary = fused(caches.cross_rotary);
  k.self_rotary = fused(caches.self_rotary);
  k.cache_slots = caches.slots;
  k.cache_type = caches.self_kv.dtype();
  const int64_t latent_rows = range.first * caches.latents, context_rows = range.first * caches.context;
  k.self_kv = row_of(caches.self_kv, latent_rows);
  if (caches.by_table()) {
    k.context_table = caches.context_table.data();
    k.context_tokens = caches.context_tokens.as<int32_t>() + context_rows;
    k.context_positions = caches.context_positions.as<int32_t>() + context_rows;
  } else {
    k.context_kv = row_of(caches.context_kv, context_rows);
  }
  const auto state = [&](const Tensor& of, int64_t fields = 1) {
    return of.as<int32_t>() + range.first * fields;
  };
  k.token = state(slots.token);
  k.position = state(slots.position);
  k.table_position = config_.axes() == 1 ? k.position : state(slots.positions, config_.axes());
  k.context_count = state(slots.context_count);
  k.context_row = state(slots.context_row);
  k.latent_count = state(slots.latent_count);
  k.latent_row = state(slots.latent_row);
  k.active = state(slots.active);
  // decode_supports() wants an address for the logits; each step sets its own.
  k.logits = slots.zeros.as<float>();
  if (!kernels::decode_supports(context_->launch(), k)) return nullptr;
  fused_step->workspace = workspace;
#ifdef PERCEIVER_CUDA
  if (!workspace)
    fused_step->workspace =
        Tensor::empty(*context_, DType::u8, {kernels::cuda::decode_workspace(context_->launch(), k)});
  k.workspace = fused_step->workspace.data();
  if (!workspace) kernels::cuda::decode_prepare(context_->launch(), k);
#endif
  return fused_step;
}

}  // namespace perceiver
