#include "generate/decode_step.h"

#include <algorithm>

#include "distributed/communicator.h"
#include "generate/rebase_positions.h"
#include "kernels/sampling.h"

namespace perceiver {

namespace {

/// The smallest of 1, 2, 4, … successive slots, aligned to as many, that holds [first, last].
SlotRange range_around(int64_t first, int64_t last, int64_t all) {
  int64_t size = 1;
  while (first / size != last / size) size *= 2;
  const int64_t begin = first / size * size;
  return {begin, std::min(size, all - begin)};
}

}  // namespace

DecodeStep::DecodeStep(Slots& slots, StepResults& results) : slots_(slots), results_(results) {
  if (slots.keeps_cache() && slots.options().fused) allocate_workspaces();
  const Communicator* group = slots.caches().context_group;
  const bool recordable = group == nullptr || group->recordable();
  if (slots.context().is_cuda() && recordable) arena_ = slots.context().new_arena();
}

/// Of steps of every number of slots, so that none is allocated between tokens.
void DecodeStep::allocate_workspaces() {
  const int64_t all = slots_.count();
  const auto step_of = [&](int64_t count) {
    return slots_.model().fused_step(slots_.caches(), slots_.device(), {0, count});
  };
  const auto whole = step_of(all);
  fused_ = whole != nullptr;
  if (!fused_) return;
  workspaces_[all] = whole->workspace;
  for (int64_t size = 1; size < all; size *= 2)
    // The last range of a size ends with the slots.
    for (const int64_t count : {size, all % size})
      if (count > 0 && !workspaces_.contains(count))
        if (const auto step = step_of(count)) workspaces_[count] = step->workspace;
}

DecodeStep::Part& DecodeStep::part_of(const std::vector<int64_t>& slots) {
  const int64_t all = slots_.count();
  SlotRange range{0, all};
  if (fused_) range = range_around(slots.front(), slots.back(), all);
  if (fused_ && !workspaces_.contains(range.count)) range = {0, all};
  const auto [found, added] = parts_.try_emplace(range);
  Part& part = found->second;
  if (!added) return part;
  part.recorded.resize(static_cast<size_t>(results_.depth()));
  if (fused_)
    part.fused =
        slots_.model().fused_step(slots_.caches(), slots_.device(), range, workspaces_.at(range.count));
  return part;
}

void DecodeStep::drop_recorded() {
  for (auto& [range, part] : parts_)
    for (auto& recorded : part.recorded) recorded.reset();
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
  part_ = &part_of(slots);
}

void DecodeStep::launch_decode() {
  slots_.model().decode(slots_.caches(), slots_.device(), slots_.logits(), part_->fused.get());
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
  std::unique_ptr<RecordedWork>& recorded = part_->recorded[results_.next_mailbox()];
  if (!recorded) recorded = slots_.context().record(work);
  recorded->replay();
}

}  // namespace perceiver
