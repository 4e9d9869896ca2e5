#include "generate/decode_step.h"

#include "distributed/communicator.h"
#include "generate/rebase_positions.h"
#include "kernels/sampling.h"

namespace perceiver {

DecodeStep::DecodeStep(Slots& slots, StepResults& results) : slots_(slots), results_(results) {
  if (slots.keeps_cache() && slots.options().fused)
    fused_ = slots.model().fused_step(slots.caches(), slots.device());
  recorded_.resize(static_cast<size_t>(results.depth()));
  const Communicator* group = slots.caches().context_group;
  const bool recordable = group == nullptr || group->recordable();
  if (slots.context().is_cuda() && recordable) arena_ = slots.context().new_arena();
}

void DecodeStep::drop_recorded() {
  for (auto& recorded : recorded_) recorded.reset();
}

void DecodeStep::decode(const std::vector<int64_t>& slots) {
  prepare(slots);
  launch_decode();
  slots_.advance(slots);
}

void DecodeStep::choose(const std::vector<int64_t>& slots) {
  if (active_ != slots) {
    results_.settle();
    slots_.write_decode_state(slots, true);
  }
  results_.make_room();
  launch_choice();
  results_.sent(slots);
  active_ = slots;
}

void DecodeStep::decode_and_choose(const std::vector<int64_t>& slots) {
  prepare(slots);
  results_.make_room();
  launch_both();
  slots_.advance(slots);
  results_.sent(slots);
}

/// Makes the device's state that of the next token of each slot, unless it is already.
void DecodeStep::prepare(const std::vector<int64_t>& slots) {
  bool ready = active_ == slots;
  for (const int64_t s : slots) {
    const Slot& slot = slots_[s];
    ready = ready && !slot.has_given_positions();  // the device cannot advance those
    if (!must_rebase_positions(slots_, slot)) continue;
    results_.settle();
    rebase_positions(slots_, s);
    ready = false;
  }
  if (!ready) {
    results_.settle();
    slots_.write_decode_state(slots, false);
  }
  active_ = slots;
}

void DecodeStep::launch_decode() {
  slots_.model().decode(slots_.caches(), slots_.device(), slots_.logits(), fused_.get());
}

void DecodeStep::launch_choice() {
  const auto ints = [](const Tensor& tensor) { return tensor.as<int32_t>(); };
  const DecodeSlots& state = slots_.device();
  const ModelConfig& config = slots_.config();
  kernels::sample(slots_.context().launch(),
                  {.type = slots_.logits().dtype(),
                   .slots = slots_.count(),
                   .vocabulary = config.vocabulary,
                   .logits = slots_.logits().data(),
                   .parameters = static_cast<const kernels::SamplingParameters*>(slots_.sampling().data()),
                   .bias = slots_.biases().as<float>(),
                   .seen = slots_.seen().as<uint8_t>(),
                   .step = ints(state.step),
                   .active = ints(state.active),
                   .token = ints(state.token),
                   .log_probability = results_.log_probabilities(),
                   .posted = results_.tokens(),
                   .next = {.slots = slots_.count(),
                            .context_capacity = slots_.caches().context > 0 ? config.context_length : 0,
                            .latent_capacity = slots_.options().latents,
                            .copies = config.latents_per_position,
                            .active = ints(state.active),
                            .step = ints(state.step),
                            .position = ints(state.position),
                            .context_count = ints(state.context_count),
                            .context_row = ints(state.context_row),
                            .latent_count = ints(state.latent_count),
                            .latent_row = ints(state.latent_row),
                            .query_position = ints(state.query_position),
                            .query_offset = config.query_offset ? 1 : 0}});
}

void DecodeStep::launch_both() {
  const auto work = [&] {
    launch_decode();
    launch_choice();
  };
  if (!arena_) return work();
  const ArenaScope scope(slots_.context(), arena_);
  if (!warm_) {
    work();
    warm_ = true;
    return;
  }
  std::unique_ptr<RecordedWork>& recorded = recorded_[results_.next_mailbox()];
  if (!recorded) recorded = slots_.context().record(work);
  recorded->replay();
}

}  // namespace perceiver
