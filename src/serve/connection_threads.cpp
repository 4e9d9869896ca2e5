#include "serve/connection_threads.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>

namespace perceiver::serve {

constexpr std::chrono::seconds kIdle{10};  ///< after which a thread ends

struct ConnectionThreads::State {
  explicit State(size_t limit) : most(limit) {}
  /// `self` is this; the thread that may be started holds it.
  void add(std::function<void()> task, const std::shared_ptr<State>& self);
  void work();

  const size_t most;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> tasks;
  size_t threads = 0, idle = 0;
  bool closing = false;
};

ConnectionThreads::ConnectionThreads(size_t most) : state_(std::make_shared<State>(most)) {}
ConnectionThreads::~ConnectionThreads() = default;

Enqueued ConnectionThreads::enqueue(std::function<void()> task) {
  state_->add(std::move(task), state_);
  return Enqueued(true);
}

void ConnectionThreads::State::add(std::function<void()> task, const std::shared_ptr<State>& self) {
  const std::lock_guard lock(mutex);
  tasks.push_back(std::move(task));
  changed.notify_one();
  if (idle >= tasks.size() || threads >= most) return;
  try {
    std::thread([self] { self->work(); }).detach();
    ++threads;
  } catch (const std::system_error&) {  // the machine has no more: those there are will do
  }
}

void ConnectionThreads::shutdown() {
  std::unique_lock lock(state_->mutex);
  state_->closing = true;
  state_->changed.notify_all();
  state_->changed.wait(lock, [&] { return state_->threads == 0; });
}

void ConnectionThreads::State::work() {
  std::unique_lock lock(mutex);
  while (true) {
    ++idle;
    changed.wait_for(lock, kIdle, [&] { return closing || !tasks.empty(); });
    --idle;
    if (tasks.empty()) break;
    const std::function<void()> task = std::move(tasks.front());
    tasks.pop_front();
    lock.unlock();
    task();
    lock.lock();
  }
  --threads;
  changed.notify_all();
}

}  // namespace perceiver::serve
