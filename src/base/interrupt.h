// Gives up long work of a thread on request of another.
#pragma once

#include <atomic>
#include <utility>

namespace perceiver {

/// Thrown in the thread whose work is given up.
struct Interrupted {};

/// While it exists, the calling thread's loops and kernel launches throw `Interrupted` once `*flag` is true.
/// A null flag never interrupts.
class InterruptScope {
 public:
  explicit InterruptScope(const std::atomic<bool>* flag) : before_(std::exchange(flag_, flag)) {}
  ~InterruptScope() { flag_ = before_; }
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

  static void check() {
    if (flag_ != nullptr && flag_->load(std::memory_order_relaxed)) throw Interrupted();
  }

 private:
  static inline thread_local const std::atomic<bool>* flag_ = nullptr;
  const std::atomic<bool>* before_;
};

}  // namespace perceiver
