#include "serve/watched_score.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <thread>

#include "base/interrupt.h"
#include "serve/http_error.h"

namespace perceiver::serve {
namespace {

constexpr std::chrono::milliseconds kLook{100};

/// Sets a flag once it is to.
class Watcher {
 public:
  Watcher(std::function<bool()> over, std::atomic<bool>& flag)
      : thread_([over = std::move(over), &flag](std::stop_token stop) {
          std::mutex mutex;
          std::condition_variable_any stopped;
          std::unique_lock lock(mutex);
          while (!stop.stop_requested() && !flag) {
            stopped.wait_for(lock, stop, kLook, [] { return false; });
            if (over()) flag = true;
          }
        }) {}

 private:
  std::jthread thread_;
};

}  // namespace

std::vector<Score> score_watched(ServedModel& model, std::span<const TokenSequence> documents,
                                 const ScoreOptions& options, const std::function<bool()>& gone,
                                 int64_t seconds) {
  const Clock::time_point end = Clock::now() + std::chrono::seconds(seconds);
  const auto late = [end] { return Clock::now() >= end; };
  const auto give_up = [&] {
    if (late()) refuse(504, "the time for a request is up; ask for less to be scored");
    refuse(503, "the scoring was cancelled");
  };
  std::unique_lock lock(model.scoring, std::defer_lock);
  while (!lock.try_lock_for(kLook))
    if (late() || gone()) give_up();
  std::atomic<bool> over = false;
  const Watcher watcher([&] { return late() || gone(); }, over);
  try {
    const InterruptScope scope(&over);
    return model.model.score(documents, options);
  } catch (const Interrupted&) {
  }
  give_up();
  return {};
}

}  // namespace perceiver::serve
