// Training speed since the last log entry.
#pragma once

#include <chrono>
#include <cstdint>

namespace perceiver {

/// Seconds since its construction.
class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

/// Counts since the last reset; times only steps, not validations and checkpoints.
struct StepClock {
  int64_t steps = 0;
  int64_t targets = 0;
  int64_t inputs = 0;
  double seconds = 0;

  /// A step.
  void add(int64_t step_targets, int64_t step_inputs, double step_seconds) {
    ++steps;
    targets += step_targets;
    inputs += step_inputs;
    seconds += step_seconds;
  }
  double per_second(int64_t count) const { return seconds > 0 ? static_cast<double>(count) / seconds : 0; }
  double seconds_per_step() const { return steps > 0 ? seconds / static_cast<double>(steps) : 0; }
};

}  // namespace perceiver
