// Sequences on their way through an engine's slots: they join, leave, fork and are cancelled while others go
// on.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "generate/completion.h"
#include "generate/engine.h"
#include "generate/request.h"

namespace perceiver {

/// A new token of request `request`, and the text that it makes certain; false cancels the request.
using TokenCallback = std::function<bool(int64_t request, const ChosenToken& token, const std::string& text)>;

/// A request has ended; called once for each, in the order in which they end.
using FinishedCallback = std::function<void(int64_t request, const Completion& completion)>;

/// Used by one thread at a time, except for `cancel`. The engine's slots must be free and are used by nothing
/// else. What a sequence becomes depends neither on the others nor on the number of slots (but see engine.h).
class GenerationQueue {
 public:
  /// `tokenizer` makes the text, and stop strings need it; null: ids only. `isolated`: a sequence for which
  /// no token can be chosen ends as FinishReason::failed instead of throwing.
  GenerationQueue(Engine& engine, const TextTokenizer* tokenizer, TokenCallback token,
                  FinishedCallback finished, bool isolated);
  ~GenerationQueue();
  GenerationQueue(const GenerationQueue&) = delete;
  GenerationQueue& operator=(const GenerationQueue&) = delete;

  /// Appends a request; returns its number, from 0. Throws `user` for one that the engine cannot meet.
  int64_t add(GenerationRequest request);
  /// A copy of an unfinished sequence, which continues with the random numbers of another seed. It has the
  /// request's limits and the tokens so far, and waits for a slot if none is free.
  int64_t fork(int64_t number, uint64_t seed, LogitsObserver logits = {});
  /// Ends a sequence at the next step, or within the prefill that is running. From any thread; a number that
  /// is unknown or has ended is ignored.
  void cancel(int64_t number);

  /// Starts a token for every sequence in a slot, and takes those that have arrived. False if nothing is left
  /// to do. Throws what a callback throws, and `failure` unless `isolated`.
  bool step();

  bool known(int64_t number) const { return entries_.contains(number); }
  const Completion& completion(int64_t number) const { return entries_.at(number)->stream.completion(); }
  const GenerationRequest& request(int64_t number) const { return entries_.at(number)->request; }
  /// Frees what is kept of a finished sequence.
  void forget(int64_t number);
  /// Sequences that have not ended, and those of them that wait for a slot.
  int64_t unfinished() const { return static_cast<int64_t>(waiting_.size()) + running(); }
  int64_t waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t running() const;
  /// Logits [V] that the next token of a running sequence will be chosen from, computed if need be.
  std::vector<double> next_logits(int64_t number);

 private:
  static constexpr int64_t kFree = -1;
  struct Entry {
    Entry(GenerationRequest r, CompletionStream s) : request(std::move(r)), stream(std::move(s)) {}
    GenerationRequest request;
    CompletionStream stream;
    int64_t slot = kFree;
    bool announced = false;
    std::atomic<bool> cancelled = false;
    std::string snapshot;  ///< of a fork that waits
  };

  int64_t insert(std::unique_ptr<Entry> entry);
  int64_t free_slot() const;
  void drop_cancelled();
  bool fill();
  void admit(int64_t slot, int64_t number);
  void watch(Entry& entry);
  void start_tokens();
  void retire();
  void retire(int64_t slot);
  void collect();
  void take(const std::vector<ChosenToken>& tokens);
  void settle();
  void announce(int64_t number, Entry& entry);
  void free(int64_t slot);
  void drop_flight();

  Engine& engine_;
  const TextTokenizer* tokenizer_;
  TokenCallback token_;
  FinishedCallback finished_;
  bool isolated_;
  mutable std::mutex mutex_;  ///< guards the map's structure against `cancel`
  std::map<int64_t, std::unique_ptr<Entry>> entries_;
  int64_t next_ = 0;
  std::deque<int64_t> waiting_;
  std::vector<int64_t> slots_;  ///< the sequence in each
};

}  // namespace perceiver
