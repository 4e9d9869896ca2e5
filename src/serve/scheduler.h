// Many users share the slots of one model: a thread owns the batch generator, takes requests from a queue and
// sends each its tokens.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "perceiver/batch_generator.h"
#include "perceiver/model.h"
#include "serve/histogram.h"

namespace perceiver::serve {

using Clock = std::chrono::steady_clock;

struct SequenceRequest {
  TokenPrompt prompt;
  GenerateOptions options;
};

/// What has happened to sequence `index` of a request: exactly one of these.
struct SequenceEvent {
  size_t index = 0;
  std::optional<GeneratedToken> token;
  std::optional<TokenSequence> so_far;  ///< prompt and continuation, if the request asked to see it grow
  std::optional<GeneratedSequence> end;
};

/// A request on its way. One thread waits for its events; all members are for any thread.
class Generation {
 public:
  /// Tokens that follow within this time of those before are handed out together: waking a thread for each
  /// would cost the engine's thread as much as a fast model's step. Nobody sees the delay.
  static constexpr std::chrono::milliseconds kPause{4};

  /// Moves events to the end of `events`, and waits at most `patience` (after the pause) for the first. False
  /// if none came and none will. Throws perceiver::Error if the request could not be met.
  bool wait(std::chrono::milliseconds patience, std::vector<SequenceEvent>& events);

 private:
  friend class Scheduler;
  void put(SequenceEvent event);
  void fail(const Error& error);
  void close();
  bool over() const { return closed_ || unfinished_ == 0; }

  std::vector<SequenceRequest> requests_;
  std::chrono::milliseconds growth_{0};  ///< how often `so_far` is wanted; 0: never
  Clock::time_point submitted_, shown_;
  std::vector<int64_t> ids_;  ///< in the batch; guarded by the scheduler's mutex
  bool started_ = false;      ///< has a token; of the scheduler's thread

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<SequenceEvent> events_;
  bool wants_tokens_ = false;      ///< a thread waits, and its pause is over
  Clock::time_point pause_end_{};  ///< of the waiting thread
  size_t unfinished_ = 0;
  bool closed_ = false;
  std::optional<Error> error_;
};

struct SchedulerOptions {
  int64_t slots = 8;
  KvCache kv_cache = KvCache::automatic;
  int64_t queue = 64;  ///< sequences that may wait
};

/// As of now, or since the start.
struct SchedulerStatus {
  int64_t slots = 0, active = 0, queued = 0, tokens = 0, cancelled = 0;
};

/// All members are for any thread.
class Scheduler {
 public:
  /// Throws as BatchGenerator does.
  Scheduler(const Model& model, const SchedulerOptions& options);
  /// Ends everything that is on its way.
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  /// Throws HttpError 429 if the queue has no room for all of them, and 503 after `stop`.
  std::shared_ptr<Generation> submit(std::vector<SequenceRequest> requests,
                                     std::chrono::milliseconds growth = std::chrono::milliseconds(0));
  /// Frees what the request holds: its places in the queue at once, its slots with the next token, or within
  /// its prefill. Does nothing once it has ended.
  void cancel(Generation& generation);
  /// Sequences of others that will be started before the request's; 0 once it has a slot.
  int64_t ahead_of(const Generation& generation) const;

  /// Cancels everything and ends the thread.
  void stop();

  SchedulerStatus status() const;
  /// Seconds from a request to its first token.
  const Histogram& first_token() const { return first_token_; }

 private:
  struct Place {
    std::shared_ptr<Generation> generation;
    size_t index = 0;
  };

  void run();
  bool wait_for_work();
  void admit();
  std::optional<Place> next();
  void start(const Place& place);
  void advance();
  bool on_token(int64_t id, const GeneratedToken& token);
  void retire();
  void forget(int64_t id);
  void show_growth();
  void abandon(const Error& error);

  const SchedulerOptions options_;
  BatchGenerator batch_;
  std::map<int64_t, Place> active_;  ///< of the thread
  Histogram first_token_;
  std::atomic<int64_t> active_count_ = 0, tokens_ = 0, cancelled_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable work_;
  std::deque<Place> queue_;
  std::set<int64_t> ids_;  ///< of the active ones
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace perceiver::serve
