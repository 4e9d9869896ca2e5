#include "model/attention_backend.h"

#include <algorithm>

#include "base/check.h"
#include "config/schema.h"
#include "kernels/attention.h"
#include "ops/attention_launch.h"
#include "perceiver/experimental/ops.h"

namespace perceiver {
namespace {

/// As the configuration spells it.
std::string name_of(AttentionBackend backend) {
  Config config;
  config.model.attention = backend;
  return format_value(find_config_key("model.attention")->get(config));
}

void check_heads(const ModelConfig& config, const DeviceContext& context, DType type, int64_t head_dim,
                 const char* which) {
  const char* obstacle =
      kernels::attention_obstacle(context.launch(), ops::attention_kernel(config.attention), type, head_dim);
  if (obstacle != nullptr)
    throw_user(
        "model.attention: {} cannot compute the {} (heads of {} channels): {}; use model.attention: auto",
        name_of(config.attention), which, head_dim, obstacle);
}

}  // namespace

void check_attention_backend(const ModelConfig& config, const DeviceContext& context, DType type) {
  check_heads(config, context, type, config.self_width() / config.self_heads, "self-attention");
  if (config.decoder_only()) return;
  check_heads(config, context, type, config.cross_width() / config.cross_heads, "cross-attention");
}

bool fills_rows(const Batch& batch, int64_t latents) {
  return latents <= batch.length && std::all_of(batch.lengths.begin(), batch.lengths.end(),
                                                [&](int32_t length) { return length == batch.length; });
}

void check_attention_batch(const ModelConfig& config, const Batch& batch, int64_t latents) {
  if (config.attention != AttentionBackend::cudnn || fills_rows(batch, latents)) return;
  constexpr const char* kAdvice = "cuDNN's causal mask has no place for padding; use model.attention: auto";
  if (latents > batch.length)
    throw_user("model.attention: cudnn: rows of {} tokens leave some of the {} latents without one; {}",
               batch.length, latents, kAdvice);
  const auto shorter = std::find_if(batch.lengths.begin(), batch.lengths.end(),
                                    [&](int32_t length) { return length != batch.length; });
  throw_user("model.attention: cudnn: example {} of the batch has {} tokens in a row of {}; {}",
             shorter - batch.lengths.begin(), *shorter, batch.length, kAdvice);
}

}  // namespace perceiver
