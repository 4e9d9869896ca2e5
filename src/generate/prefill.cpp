#include "generate/prefill.h"

#include <algorithm>

namespace perceiver {
namespace {

/// Latents that the prefill computes, if the sequence has that many.
int64_t wanted_latents(const Slots& slots, const Slot& slot) {
  const EngineOptions& options = slots.options();
  if (slot.computed == 0) return options.prompt_latents;
  const bool refill = options.policy == GenerationPolicy::refill && !slots.slides_positions(slot);
  return refill ? options.refill : options.latents;
}

/// The sequence's last `length` tokens, as a batch of one.
Batch last_tokens(const Slots& slots, const Slot& slot, int64_t length) {
  const int64_t axes = slots.config().axes(), first = slot.length - length;
  Batch batch;
  batch.resize(1, length, axes);
  batch.lengths[0] = static_cast<int32_t>(length);
  std::copy(slot.tokens.end() - length, slot.tokens.end(), batch.tokens.begin());
  for (int64_t n = 0; n < length; ++n)
    for (int64_t a = 0; a < axes; ++a)
      batch.positions[static_cast<size_t>(n * axes + a)] = slots.position_of(slot, first + n, a);
  return batch;
}

}  // namespace

bool needs_prefill(const Slots& slots, const Slot& slot) {
  if (slot.computed == 0 || !slots.keeps_cache()) return true;
  if (slots.slides_positions(slot)) return true;
  // The cached latents have seen tokens that have since left the context.
  if (slots.slides(slot) && slots.options().policy == GenerationPolicy::exact) return true;
  const bool full = slot.latents + slots.config().latents_per_position > slots.options().latents;
  return full && slots.options().policy != GenerationPolicy::stream;
}

void prefill(Slots& slots, int64_t number) {
  Slot& slot = slots[number];
  const ModelConfig& config = slots.config();
  int64_t latents = wanted_latents(slots, slot);
  const int64_t window = config.type == ModelType::transformer ? latents : config.context_length;
  const int64_t length = std::min(slot.length, window);
  if (!has_query_per_latent(config)) latents = std::min(latents, length * config.latents_per_position);
  slot.first = slot.length - length;

  PassOptions options;
  options.latents = latents;
  options.context_group = slots.options().context_group;
  const ModelInputs inputs = slots.model().prepare(last_tokens(slots, slot, length), options);
  const Tensor logits = slots.logits().view(number * config.vocabulary, {1, config.vocabulary});
  slots.model().prefill(inputs, slots.keeps_cache() ? &slots.caches() : nullptr, number, logits);
  slot.computed = slot.length;
  slot.context = length;
  slot.context_row = length % config.context_length;
  slot.latents = latents;
  slot.latent_row = latents % slots.options().latents;
}

}  // namespace perceiver
