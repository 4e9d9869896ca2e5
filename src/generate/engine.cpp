#include "generate/engine.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/check.h"
#include "base/interrupt.h"
#include "generate/prefill.h"
#include "perceiver/experimental/host_values.h"

namespace perceiver {

Engine::Engine(const PerceiverAR& model, const EngineOptions& options)
    : Engine(model, resolve_options(model, options), model.context().exclusive()) {}

// The lock is held while the members are made.
Engine::Engine(const PerceiverAR& model, const EngineOptions& resolved,
               std::unique_lock<std::recursive_mutex>)
    : slots_(model, resolved), results_(slots_), decode_(slots_, results_) {}

void Engine::check(const Sequence& sequence) const {
  check_sequence(model(), options(), sequence);
}

void Engine::admit(int64_t number, Sequence sequence, uint64_t tag) {
  check(sequence);
  exclude_unused_ids(sequence, options().token_ids, model().config().vocabulary);
  const auto lock = model().context().exclusive();
  place(number, slot_of(std::move(sequence)), tag);
}

void Engine::place(int64_t number, Slot content, uint64_t tag) {
  reserve_biases(static_cast<int64_t>(content.biases.size()));
  slots_.admit(number, std::move(content), tag);
  slots_.write_sampling(number);
}

void Engine::release(int64_t number) {
  slots_[number].occupied = false;
}

void Engine::reserve_biases(int64_t rows) {
  if (rows <= slots_.bias_rows()) return;
  results_.settle();
  decode_.drop_recorded();
  slots_.grow_biases(rows);
}

void Engine::set_sampling(int64_t number, const kernels::SamplingParameters& settings) {
  const auto lock = model().context().exclusive();
  results_.settle();
  slots_[number].settings = settings;
  slots_.write_sampling(number);
}

void Engine::step() {
  std::vector<int64_t> going_on;
  for (int64_t s = 0; s < slots(); ++s)
    if (occupied(s) && !ended(s)) going_on.push_back(s);
  if (going_on.empty()) return;
  const auto lock = model().context().exclusive();
  if (std::all_of(going_on.begin(), going_on.end(), [&](int64_t s) { return runs_on(s); })) {
    decode_.decode_and_choose(going_on);
    decoded_ += static_cast<int64_t>(going_on.size());
    return;
  }
  std::vector<int64_t> ready;
  while (ready.empty() && !going_on.empty()) {
    compute_next(going_on);
    std::erase_if(going_on, [&](int64_t s) { return slots_[s].failed; });
    std::copy_if(going_on.begin(), going_on.end(), std::back_inserter(ready),
                 [&](int64_t s) { return !behind(s); });
  }
  if (!ready.empty()) choose(ready);
}

/// Whether the slot's next token is a decode step followed by a choice that nobody watches.
bool Engine::runs_on(int64_t number) const {
  const Slot& slot = slots_[number];
  const bool watched = slot.watch.logits || slot.edited;
  return slot.computed + 1 == slot.length && !needs_prefill(slots_, slot) && !watched;
}

void Engine::choose(const std::vector<int64_t>& ready) {
  const auto watched = [&](int64_t s) { return slots_[s].watch.logits || slots_[s].edited; };
  if (std::any_of(ready.begin(), ready.end(), watched)) {
    results_.settle();
    for (const int64_t s : ready) show_logits(s);
  }
  decode_.choose(ready);
}

void Engine::watch(int64_t number, SlotWatch watch) {
  PERCEIVER_ASSERT(occupied(number));
  if (watch.logits) {
    const auto lock = model().context().exclusive();
    reserve_biases(1);
  }
  slots_[number].watch = std::move(watch);
}

/// Shows a slot's logits to whoever watches it, and has the difference added before the choice.
void Engine::show_logits(int64_t number) {
  Slot& slot = slots_[number];
  std::vector<double> edit;
  bool changed = false;
  if (slot.watch.logits) {
    const std::vector<double> before = logits(number);
    edit = before;
    slot.watch.logits(edit);
    for (size_t v = 0; v < edit.size(); ++v) {
      if (std::isnan(edit[v]) || edit[v] == INFINITY)
        throw_user("the logit of id {} was set to {}; it must be a number or -infinity", v, edit[v]);
      changed = changed || edit[v] != before[v];
      edit[v] = edit[v] == before[v] ? 0 : edit[v] - before[v];
    }
  }
  if (changed) return slots_.write_edit(number, edit);
  if (slot.edited) slots_.write_sampling(number);
}

void Engine::compute() {
  const auto lock = model().context().exclusive();
  std::vector<int64_t> grown;
  do {
    grown.clear();
    for (int64_t s = 0; s < slots(); ++s)
      if (occupied(s) && !slots_[s].failed && behind(s)) grown.push_back(s);
    compute_next(grown);
  } while (!grown.empty());
}

/// Prefills those of `slots` that need it, and computes one more token of the others that are behind.
void Engine::compute_next(const std::vector<int64_t>& slots) {
  std::vector<int64_t> decoding;
  bool prefilled = false;
  for (const int64_t s : slots) {
    if (!behind(s)) continue;
    if (!needs_prefill(slots_, slots_[s])) {
      decoding.push_back(s);
      continue;
    }
    results_.settle();
    prefilled = prefill_or_give_up(s) || prefilled;
  }
  if (!decoding.empty()) {
    decode_.decode(decoding);
    decoded_ += static_cast<int64_t>(decoding.size());
  }
  // The device's state moves on with a choice only.
  const bool reading = std::any_of(decoding.begin(), decoding.end(), [&](int64_t s) { return behind(s); });
  if (prefilled || reading) decode_.invalidate_state();
}

bool Engine::prefill_or_give_up(int64_t number) {
  const InterruptScope scope(slots_[number].watch.cancelled);
  try {
    InterruptScope::check();  // before the inputs of a long prompt are made
    prefill(slots_, number);
  } catch (const Interrupted&) {
    slots_[number].failed = true;
    return false;
  }
  ++prefills_;
  return true;
}

std::vector<double> Engine::logits(int64_t slot) const {
  return host_doubles(slots_.logits_of(slot));
}

void Engine::push(int64_t number, int32_t token) {
  refuse_failed(number);
  const Slot& slot = slots_[number];
  PERCEIVER_ASSERT(slot.occupied && slot.computed == slot.length);
  const int64_t vocabulary = model().config().vocabulary;
  if (token <= 0 || token >= vocabulary) throw_user("token id {} outside 1 to {}", token, vocabulary - 1);
  if (ended(number)) throw_user("the sequence has ended: its context or its positions are used up");
  slots_.push(number, token);
  decode_.invalidate_state();
}

void Engine::copy(Engine& other, int64_t other_slot, int64_t number, uint64_t tag) {
  const auto lock = model().context().exclusive();
  other.results_.settle();
  other.refuse_failed(other_slot);
  const Slot& source = other.slots_[other_slot];
  PERCEIVER_ASSERT(
      source.occupied && &other.model() == &model() && other.options().latents == options().latents &&
      other.options().context == options().context && other.options().policy == options().policy);
  place(number, source, tag);
  copy_cached_rows(other.slots_, other_slot, slots_, number);
  decode_.invalidate_state();
}

void Engine::save(int64_t number, SafetensorsWriter& writer, Storage& storage) {
  const auto lock = model().context().exclusive();
  results_.settle();
  refuse_failed(number);
  save_slot(slots_, number, writer, storage);
}

void Engine::restore(int64_t number, const SafetensorsFile& file, uint64_t tag) {
  Slot content = read_saved_slot(slots_, file);
  const auto lock = model().context().exclusive();
  place(number, std::move(content), tag);
  decode_.invalidate_state();
  try {
    read_cached_rows(slots_, number, file);
  } catch (...) {
    release(number);
    throw;
  }
}

void Engine::refuse_failed(int64_t number) const {
  if (slots_[number].failed)
    throw_failure("the sequence cannot go on: at its last step no token could be chosen");
}

}  // namespace perceiver
