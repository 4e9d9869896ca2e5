#include "generate/prefill.h"

#include <algorithm>

#include "model/segment_memory.h"

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
  if (!slots.keeps_cache()) return true;
  if (slot.computed == 0) return slot.length > slots.options().prompt_steps;
  if (slots.slides_positions(slot)) return true;
  // The cached latents have seen tokens that have since left the context.
  if (slots.slides(slot) && slots.options().policy == GenerationPolicy::exact) return true;
  const bool full = slot.latents + slots.config().latents_per_position > slots.options().latents;
  return full && slots.options().policy != GenerationPolicy::stream;
}

namespace {

/// Reads the whole sequence segment by segment, as in training, and caches what the model remembers of it and
/// its last segment.
void prefill_segments(Slots& slots, int64_t number) {
  Slot& slot = slots[number];
  const PerceiverAR& model = slots.model();
  const ModelConfig& config = slots.config();
  SegmentMemory memory = SegmentMemory::make(slots.context(), model.type(), config, 1, config.memory_length);
  PassOptions options;
  if (memory.length > 0) options.memory = &memory;
  const Tensor logits = slots.logits().view(number * config.vocabulary, {1, config.vocabulary});
  for (int64_t first = 0; first < slot.length; first += config.context_length) {
    const int64_t length = std::min(config.context_length, slot.length - first);
    Batch batch;
    batch.resize(1, length, 1);
    batch.lengths[0] = static_cast<int32_t>(length);
    batch.preceding.assign(1, first);
    std::copy_n(slot.tokens.begin() + first, length, batch.tokens.begin());
    const ModelInputs inputs = model.prepare(batch, options);
    const bool last = first + length == slot.length;
    model.prefill(inputs, last ? &slots.caches() : nullptr, number, logits);
    memory.commit(slots.context());
    slot.latents = std::min(slots.options().latents, inputs.memory_length + length - inputs.first_keys[0]);
  }
  slot.first = 0;
  slot.computed = slot.length;
  slot.context = std::min(slot.length, config.context_length);
  slot.context_row = 0;
  slot.latent_row = slot.latents % slots.options().latents;
}

}  // namespace

void prefill(Slots& slots, int64_t number) {
  Slot& slot = slots[number];
  if (slots.config().recurrent()) return prefill_segments(slots, number);
  const ModelConfig& config = slots.config();
  int64_t latents = wanted_latents(slots, slot);
  const int64_t window = config.decoder_only() ? latents : config.context_length;
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
