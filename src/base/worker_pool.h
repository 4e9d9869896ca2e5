// The threads of a CPU context. OpenMP's are not used, for three reasons: its idle threads spin for
// milliseconds, which takes the processors from other programs; a loop waits for all of its threads even if
// one of them has not been given a processor; and their number is a setting of the calling thread, not of the
// model.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace perceiver {

/// Runs loops on the calling thread and on threads − 1 workers, which start at the first loop, block all
/// signals, and sleep soon after the last. The caller takes part and never waits for a worker that has not
/// begun: on a busy machine a loop takes as long as the processors it gets need. Any thread may call; while
/// one loop runs, a loop of another thread, or one inside the loop, runs on its caller alone.
class WorkerPool {
 public:
  explicit WorkerPool(int threads);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  int threads() const { return threads_; }

  /// Calls body(part) once for each part in [0, parts), parts < 2^31, in any order; returns when all have
  /// returned. Rethrows the first exception; parts that had not begun by then are left out.
  template <typename Body>
  void run(int64_t parts, Body&& body) {
    using Type = std::remove_reference_t<Body>;
    run(parts, {[](void* b, int64_t part) { (*static_cast<Type*>(b))(part); }, &body});
  }

  /// The pool of the loops that the calling thread runs (kernels/cpu/parallel.h); null: it runs them alone.
  static WorkerPool* current() { return current_.get(); }
  /// A device context calls this before every kernel.
  static void use(const std::shared_ptr<WorkerPool>& pool) {
    if (current_ != pool) current_ = pool;
  }

 private:
  struct Call {
    void (*function)(void* body, int64_t part);
    void* body;
  };

  void run(int64_t parts, Call call);
  void start();
  void work();
  bool wait_for_loop(uint32_t finished);
  void take_parts(uint32_t loop);
  void finish_part();
  void wait_for_parts();

  static thread_local std::shared_ptr<WorkerPool> current_;

  const int threads_;
  const int64_t spin_nanoseconds_;
  std::vector<std::thread> workers_;
  std::mutex running_;  ///< held by the thread whose loop it is

  // The loop. Its fields are written while no part can be taken: `ticket_` says which loop is open and which
  // of its parts is next, so that a late worker can never take a part of another loop.
  std::atomic<void (*)(void*, int64_t)> function_ = nullptr;
  std::atomic<void*> body_ = nullptr;
  std::atomic<uint32_t> parts_ = 0;
  std::atomic<uint64_t> ticket_ = 0;  ///< number of the loop · 2^32 + next part
  std::atomic<uint32_t> unfinished_ = 0;
  std::atomic<bool> failing_ = false;
  std::mutex failure_mutex_;
  std::exception_ptr failure_;

  std::atomic<uint32_t> loop_ = 0;  ///< number of the newest loop; workers wait for it to change
  std::atomic<int> asleep_ = 0;
  std::atomic<bool> stopping_ = false;
};

}  // namespace perceiver
