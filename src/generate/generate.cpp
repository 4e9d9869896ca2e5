#include "generate/generate.h"

#include <algorithm>

#include "base/check.h"

namespace perceiver {
namespace {

/// The requests on their way through an engine's slots.
class Queue {
 public:
  Queue(Engine& engine, const std::vector<GenerationRequest>& requests, const TokenCallback& callback,
        const Tokenizer* tokenizer, const FinishedCallback& finished)
      : engine_(engine),
        requests_(requests),
        callback_(callback),
        finished_(finished),
        announced_(requests.size(), false),
        slot_(static_cast<size_t>(engine.slots()), kFree),
        started_(static_cast<size_t>(engine.slots()), 0) {
    for (const GenerationRequest& request : requests) streams_.emplace_back(request, tokenizer);
  }
  ~Queue() {
    for (int64_t s = 0; s < engine_.slots(); ++s)
      if (slot_[static_cast<size_t>(s)] != kFree) engine_.release(s);
    while (engine_.in_flight() > 0) drop();
  }

  std::vector<Completion> run() {
    while (fill()) {
      engine_.step();
      for (size_t s = 0; s < slot_.size(); ++s)
        if (slot_[s] != kFree) ++started_[s];
      retire();
      if (engine_.in_flight() >= engine_.depth()) take(engine_.collect());
    }
    while (engine_.in_flight() > 0) take(engine_.collect());
    for (size_t i = 0; i < streams_.size(); ++i) announce(i);
    std::vector<Completion> completions;
    for (const CompletionStream& stream : streams_) completions.push_back(stream.completion());
    return completions;
  }

 private:
  static constexpr int64_t kFree = -1;

  /// Discards a step in flight. Whether it failed no longer matters.
  void drop() {
    try {
      engine_.collect();
    } catch (const Error&) {
    }
  }

  /// Puts waiting requests into free slots; whether any slot is busy.
  bool fill() {
    bool busy = false;
    for (size_t s = 0; s < slot_.size(); ++s) {
      while (slot_[s] == kFree && next_ < requests_.size()) admit(s, next_++);
      busy = busy || slot_[s] != kFree;
    }
    return busy;
  }

  void admit(size_t slot, size_t request) {
    if (streams_[request].finished()) return announce(request);
    const int64_t vocabulary = engine_.model().config().vocabulary;
    engine_.admit(static_cast<int64_t>(slot), sequence_of(requests_[request], vocabulary), request);
    slot_[slot] = static_cast<int64_t>(request);
    started_[slot] = 0;
    retire(slot);
  }

  void retire() {
    for (size_t s = 0; s < slot_.size(); ++s)
      if (slot_[s] != kFree) retire(s);
  }

  /// Frees the slot if its last token has been started; it may still be in flight.
  void retire(size_t slot) {
    const auto request = static_cast<size_t>(slot_[slot]);
    if (started_[slot] >= requests_[request].tokens) return free(slot);
    if (!engine_.ended(static_cast<int64_t>(slot))) return;
    streams_[request].limit(started_[slot], FinishReason::context);
    free(slot);
    announce(request);
  }

  /// Tells that the request has ended, the first time.
  void announce(size_t request) {
    if (!finished_ || announced_[request] || !streams_[request].finished()) return;
    announced_[request] = true;
    finished_(static_cast<int64_t>(request), streams_[request].completion());
  }

  void free(size_t slot) {
    engine_.release(static_cast<int64_t>(slot));
    slot_[slot] = kFree;
  }

  void take(const std::vector<ChosenToken>& tokens) {
    for (const ChosenToken& token : tokens) {
      const auto request = static_cast<int64_t>(token.tag);
      CompletionStream& stream = streams_[token.tag];
      if (stream.finished()) continue;
      const std::string text = stream.put(token.token, token.log_probability);
      if (callback_ && !callback_(request, token, text)) stream.cancel();
      if (!stream.finished()) continue;
      announce(token.tag);
      const auto slot = std::find(slot_.begin(), slot_.end(), request);
      if (slot != slot_.end()) free(static_cast<size_t>(slot - slot_.begin()));
    }
  }

  Engine& engine_;
  const std::vector<GenerationRequest>& requests_;
  const TokenCallback& callback_;
  const FinishedCallback& finished_;
  std::vector<bool> announced_;
  std::vector<CompletionStream> streams_;
  std::vector<int64_t> slot_;     ///< the request in each slot
  std::vector<int64_t> started_;  ///< tokens started in each slot
  size_t next_ = 0;
};

}  // namespace

std::vector<Completion> generate(Engine& engine, const std::vector<GenerationRequest>& requests,
                                 const TokenCallback& callback, const Tokenizer* tokenizer,
                                 const FinishedCallback& finished) {
  for (const GenerationRequest& request : requests) check_request(engine.model(), engine.options(), request);
  return Queue(engine, requests, callback, tokenizer, finished).run();
}

}  // namespace perceiver
