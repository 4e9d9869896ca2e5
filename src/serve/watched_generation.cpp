#include "serve/watched_generation.h"

namespace perceiver::serve {

constexpr std::chrono::milliseconds kPatience{100};

WatchedGeneration::WatchedGeneration(Scheduler& scheduler, std::vector<SequenceRequest> requests,
                                     std::function<bool()> gone, int64_t seconds,
                                     std::chrono::milliseconds growth)
    : scheduler_(scheduler),
      gone_(std::move(gone)),
      end_(Clock::now() + std::chrono::seconds(seconds)),
      generation_(scheduler.submit(std::move(requests), growth)) {}

WatchedGeneration::~WatchedGeneration() {
  scheduler_.cancel(*generation_);
}

bool WatchedGeneration::next(std::vector<SequenceEvent>& events) {
  if (out_of_time() || gone_()) return false;
  return generation_->wait(kPatience, events);
}

bool WatchedGeneration::out_of_time() const {
  return Clock::now() >= end_;
}

}  // namespace perceiver::serve
