#include "generate/generation_queue.h"

#include <algorithm>
#include <span>

#include "base/check.h"

namespace perceiver {

GenerationQueue::GenerationQueue(Engine& engine, const TextTokenizer* tokenizer, TokenCallback token,
                                 FinishedCallback finished, bool isolated)
    : engine_(engine),
      tokenizer_(tokenizer),
      token_(std::move(token)),
      finished_(std::move(finished)),
      isolated_(isolated),
      slots_(static_cast<size_t>(engine.slots()), kFree) {}

GenerationQueue::~GenerationQueue() {
  for (int64_t s = 0; s < engine_.slots(); ++s)
    if (slots_[static_cast<size_t>(s)] != kFree) engine_.release(s);
  while (engine_.in_flight() > 0) drop_flight();
}

/// Discards a step in flight. Whether it failed no longer matters.
void GenerationQueue::drop_flight() {
  try {
    engine_.collect();
  } catch (const Error&) {
  }
}

int64_t GenerationQueue::add(GenerationRequest request) {
  check_request(engine_.model(), engine_.options(), request);
  CompletionStream stream(request, tokenizer_);
  const int64_t number = insert(std::make_unique<Entry>(std::move(request), std::move(stream)));
  waiting_.push_back(number);
  return number;
}

int64_t GenerationQueue::insert(std::unique_ptr<Entry> entry) {
  const std::lock_guard lock(mutex_);
  entries_[next_] = std::move(entry);
  return next_++;
}

int64_t GenerationQueue::fork(int64_t number, uint64_t seed, LogitsObserver logits) {
  settle();
  const Entry& parent = *entries_.at(number);
  if (parent.stream.finished()) throw_user("sequence {} has ended and cannot be forked", number);
  GenerationRequest request = parent.request;
  request.sampling.seed = seed;
  request.logits = std::move(logits);
  auto entry = std::make_unique<Entry>(std::move(request), parent.stream);
  if (parent.slot != kFree) {
    SafetensorsWriter writer;
    Engine::Storage storage;
    const int64_t slot = free_slot();
    if (slot == kFree || !waiting_.empty()) {
      engine_.save(parent.slot, writer, storage);
      entry->snapshot = writer.file();
    } else {
      engine_.copy(engine_, parent.slot, slot, static_cast<uint64_t>(next_));
      entry->slot = slot;
    }
  } else {
    entry->snapshot = parent.snapshot;
  }
  const int64_t copy = insert(std::move(entry));
  Entry& placed = *entries_.at(copy);
  if (placed.slot == kFree) {
    waiting_.push_back(copy);
  } else {
    slots_[static_cast<size_t>(placed.slot)] = copy;
    watch(placed);
  }
  return copy;
}

void GenerationQueue::cancel(int64_t number) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(number);
  if (found != entries_.end()) found->second->cancelled = true;
}

void GenerationQueue::forget(int64_t number) {
  const std::lock_guard lock(mutex_);
  PERCEIVER_ASSERT(entries_.at(number)->stream.finished());
  entries_.erase(number);
}

int64_t GenerationQueue::running() const {
  return std::count_if(slots_.begin(), slots_.end(), [](int64_t number) { return number != kFree; });
}

int64_t GenerationQueue::free_slot() const {
  const auto found = std::find(slots_.begin(), slots_.end(), kFree);
  return found == slots_.end() ? kFree : found - slots_.begin();
}

bool GenerationQueue::step() {
  drop_cancelled();
  if (fill()) {
    start_tokens();
    retire();
    if (engine_.in_flight() >= engine_.depth()) collect();
    return true;
  }
  if (engine_.in_flight() == 0) return false;
  collect();
  return true;
}

void GenerationQueue::drop_cancelled() {
  for (size_t s = 0; s < slots_.size(); ++s) {
    if (slots_[s] == kFree) continue;
    const int64_t number = slots_[s];
    Entry& entry = *entries_.at(number);
    if (!entry.cancelled) continue;
    entry.stream.cancel();
    free(static_cast<int64_t>(s));
    announce(number, entry);
  }
  std::erase_if(waiting_, [&](int64_t number) {
    Entry& entry = *entries_.at(number);
    if (entry.cancelled) entry.stream.cancel();
    if (entry.cancelled) announce(number, entry);
    return entry.cancelled.load();
  });
}

/// Puts waiting sequences into free slots; whether any slot is busy.
bool GenerationQueue::fill() {
  for (size_t s = 0; s < slots_.size(); ++s) {
    while (slots_[s] == kFree && !waiting_.empty()) {
      const int64_t number = waiting_.front();
      waiting_.pop_front();
      admit(static_cast<int64_t>(s), number);
    }
  }
  return running() > 0;
}

void GenerationQueue::admit(int64_t slot, int64_t number) {
  Entry& entry = *entries_.at(number);
  if (entry.stream.finished()) return announce(number, entry);
  const auto tag = static_cast<uint64_t>(number);
  if (entry.snapshot.empty()) {
    engine_.admit(slot, sequence_of(entry.request, engine_.model().config().vocabulary), tag);
  } else {
    const auto bytes = std::as_bytes(std::span(entry.snapshot));
    engine_.restore(slot, SafetensorsFile::parse(bytes, "the forked sequence"), tag);
    entry.snapshot = {};
  }
  entry.slot = slot;
  slots_[static_cast<size_t>(slot)] = number;
  watch(entry);
  retire(slot);
}

/// Sets what the engine does not take from a copy: the seed, and who watches.
void GenerationQueue::watch(Entry& entry) {
  kernels::SamplingParameters settings = engine_.sampling(entry.slot);
  if (settings.seed != entry.request.sampling.seed) {
    settings.seed = entry.request.sampling.seed;
    engine_.set_sampling(entry.slot, settings);
  }
  SlotWatch watch{.cancelled = &entry.cancelled};
  if (entry.request.logits)
    watch.logits = [this, &entry](std::span<double> logits) {
      entry.request.logits(engine_.tokens(entry.slot), logits);
    };
  engine_.watch(entry.slot, std::move(watch));
}

void GenerationQueue::start_tokens() {
  try {
    engine_.step();
  } catch (const Error& error) {
    if (!isolated_ || error.kind() != ErrorKind::failure) throw;
  }
}

void GenerationQueue::retire() {
  for (size_t s = 0; s < slots_.size(); ++s)
    if (slots_[s] != kFree) retire(static_cast<int64_t>(s));
}

/// Frees the slot if its last token has been started; it may still be in flight.
void GenerationQueue::retire(int64_t slot) {
  const int64_t number = slots_[static_cast<size_t>(slot)];
  Entry& entry = *entries_.at(number);
  const int64_t started = engine_.length(slot) - static_cast<int64_t>(entry.request.prompt.size());
  if (engine_.failed(slot)) {
    if (entry.cancelled) {
      entry.stream.cancel();
    } else if (isolated_) {
      entry.stream.fail();
    } else {
      return;
    }
    free(slot);
    return announce(number, entry);
  }
  if (started >= entry.request.tokens) return free(slot);
  if (!engine_.ended(slot)) return;
  entry.stream.limit(started, FinishReason::context);
  free(slot);
  announce(number, entry);
}

/// Tells that the sequence has ended, the first time.
void GenerationQueue::announce(int64_t number, Entry& entry) {
  if (entry.announced || !entry.stream.finished()) return;
  entry.announced = true;
  if (finished_) finished_(number, entry.stream.completion());
}

void GenerationQueue::free(int64_t slot) {
  engine_.release(slot);
  entries_.at(slots_[static_cast<size_t>(slot)])->slot = kFree;
  slots_[static_cast<size_t>(slot)] = kFree;
}

/// Takes the oldest step in flight.
void GenerationQueue::collect() {
  try {
    take(engine_.collect());
  } catch (const Error& error) {
    if (!isolated_ || error.kind() != ErrorKind::failure) throw;
    retire();
  }
}

void GenerationQueue::settle() {
  while (engine_.in_flight() > 0) collect();
}

void GenerationQueue::take(const std::vector<ChosenToken>& tokens) {
  for (const ChosenToken& token : tokens) {
    const auto number = static_cast<int64_t>(token.tag);
    const auto found = entries_.find(number);
    if (found == entries_.end()) continue;
    Entry& entry = *found->second;
    if (entry.stream.finished()) continue;
    const std::string text = entry.stream.put(token.token, token.log_probability);
    if (token_ && !token_(number, token, text)) entry.stream.stop();
    if (!entry.stream.finished()) continue;
    if (entry.slot != kFree) free(entry.slot);
    announce(number, entry);
  }
}

std::vector<double> GenerationQueue::next_logits(int64_t number) {
  settle();
  const Entry& entry = *entries_.at(number);
  if (entry.slot == kFree) throw_user("sequence {} is not in a slot: it waits for one, or has ended", number);
  engine_.compute();
  return engine_.logits(entry.slot);
}

}  // namespace perceiver
