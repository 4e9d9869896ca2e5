// A request in the scheduler that ends with the connection it came by.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "serve/scheduler.h"

namespace perceiver::serve {

/// Used by one thread. Cancels the request when it is destroyed.
class WatchedGeneration {
 public:
  /// `gone` tells whether the client has left.
  WatchedGeneration(Scheduler& scheduler, std::vector<SequenceRequest> requests, std::function<bool()> gone,
                    int64_t seconds, std::chrono::milliseconds growth = std::chrono::milliseconds(0));
  ~WatchedGeneration();
  WatchedGeneration(const WatchedGeneration&) = delete;
  WatchedGeneration& operator=(const WatchedGeneration&) = delete;

  /// Appends what has happened, having waited a fraction of a second for it. False once nothing will follow:
  /// everything has ended, the time is up, the client has left or the server ends. Throws perceiver::Error if
  /// the request could not be met.
  bool next(std::vector<SequenceEvent>& events);
  bool out_of_time() const;
  bool client_left() const { return gone_(); }
  /// Sequences of others before it in the queue.
  int64_t ahead() const { return scheduler_.ahead_of(*generation_); }

 private:
  Scheduler& scheduler_;
  std::function<bool()> gone_;
  Clock::time_point end_;
  std::shared_ptr<Generation> generation_;
};

}  // namespace perceiver::serve
