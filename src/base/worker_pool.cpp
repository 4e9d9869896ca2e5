#include "base/worker_pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/check.h"
#include "base/interrupt.h"
#include "base/processors.h"

namespace perceiver {
namespace {

/// Longer than the pauses between the loops of a step, and short beside a scheduler's time slice.
constexpr int64_t kSpinNanoseconds = 50'000;

/// Whether this thread is inside a loop.
thread_local bool inside = false;

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// True as soon as `condition` holds, false if it does not within the time.
template <typename Condition>
bool spin(int64_t nanoseconds, Condition&& condition) {
  if (condition()) return true;
  if (nanoseconds == 0) return false;
  const auto end = std::chrono::steady_clock::now() + std::chrono::nanoseconds(nanoseconds);
  while (std::chrono::steady_clock::now() < end) {
    for (int i = 0; i < 16; ++i) {
      pause();
      if (condition()) return true;
    }
  }
  return condition();
}

/// Threads inherit the mask: no signal handler of the program runs on a worker.
class AllSignalsBlocked {
 public:
  AllSignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS})
      sigdelset(&all, fault);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~AllSignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  AllSignalsBlocked(const AllSignalsBlocked&) = delete;
  AllSignalsBlocked& operator=(const AllSignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

thread_local std::shared_ptr<WorkerPool> WorkerPool::current_;

WorkerPool::WorkerPool(int threads)
    : threads_(threads), spin_nanoseconds_(threads <= available_processors() ? kSpinNanoseconds : 0) {
  PERCEIVER_ASSERT(threads >= 1);
}

WorkerPool::~WorkerPool() {
  stopping_ = true;
  ++loop_;
  loop_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void WorkerPool::start() {
  const AllSignalsBlocked blocked;
  while (static_cast<int>(workers_.size()) < threads_ - 1) workers_.emplace_back([this] { work(); });
}

void WorkerPool::run(int64_t parts, Call call) {
  PERCEIVER_ASSERT(parts >= 0 && parts < int64_t{1} << 31);
  const auto alone = [&] {
    for (int64_t part = 0; part < parts; ++part) {
      InterruptScope::check();
      call.function(call.body, part);
    }
  };
  if (threads_ == 1 || parts <= 1 || inside) return alone();
  std::unique_lock running(running_, std::try_to_lock);
  if (!running.owns_lock()) return alone();
  if (workers_.empty()) start();

  // Release here and acquire where they are read: who sees a new field also sees that the last loop's ticket
  // was withdrawn.
  function_.store(call.function, std::memory_order_release);
  body_.store(call.body, std::memory_order_release);
  parts_.store(static_cast<uint32_t>(parts), std::memory_order_release);
  unfinished_.store(static_cast<uint32_t>(parts), std::memory_order_relaxed);
  const uint32_t loop = std::max(1u, loop_.load(std::memory_order_relaxed) + 1);  // 0 is no loop
  ticket_.store(uint64_t{loop} << 32, std::memory_order_release);
  loop_.store(loop);  // sequentially consistent, as the reads of asleep_ and loop_ around sleeping are
  const int sleeping = asleep_.load();
  for (int64_t i = 0; i < std::min<int64_t>(sleeping, parts - 1); ++i) loop_.notify_one();

  take_parts(loop);
  wait_for_parts();
  ticket_.store(0, std::memory_order_relaxed);  // withdrawn: the fields may change
  if (!failing_.load(std::memory_order_relaxed)) return;
  failing_.store(false, std::memory_order_relaxed);
  std::rethrow_exception(std::exchange(failure_, nullptr));
}

void WorkerPool::work() {
  inside = true;
  for (uint32_t finished = 0; wait_for_loop(finished);) {
    finished = loop_.load();
    take_parts(finished);
  }
}

/// Waits for a loop other than `finished`; false if the pool is being destroyed.
bool WorkerPool::wait_for_loop(uint32_t finished) {
  if (!spin(spin_nanoseconds_, [&] { return loop_.load(std::memory_order_relaxed) != finished; })) {
    ++asleep_;
    loop_.wait(finished);
    --asleep_;
  }
  return !stopping_;
}

void WorkerPool::take_parts(uint32_t loop) {
  const bool outer = std::exchange(inside, true);
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (ticket >> 32 == loop && loop != 0) {
    const auto part = static_cast<uint32_t>(ticket);
    if (part >= parts_.load(std::memory_order_acquire)) break;
    const auto function = function_.load(std::memory_order_acquire);
    void* const body = body_.load(std::memory_order_acquire);
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
    try {
      InterruptScope::check();
      if (!failing_.load(std::memory_order_relaxed)) function(body, part);
    } catch (...) {
      failing_.store(true, std::memory_order_relaxed);
      const std::lock_guard lock(failure_mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
    finish_part();
    ticket = ticket_.load(std::memory_order_acquire);
  }
  inside = outer;
}

void WorkerPool::finish_part() {
  if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_one();
}

void WorkerPool::wait_for_parts() {
  const auto done = [&] { return unfinished_.load(std::memory_order_acquire) == 0; };
  if (spin(spin_nanoseconds_, done)) return;
  for (uint32_t left = unfinished_.load(std::memory_order_acquire); left != 0;
       left = unfinished_.load(std::memory_order_acquire))
    unfinished_.wait(left, std::memory_order_acquire);
}

}  // namespace perceiver
