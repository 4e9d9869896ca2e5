// When a checkpoint is due by the clock.
#pragma once

#include <algorithm>

#include "train/step_clock.h"

namespace perceiver {

/// Every `minutes` (0: never) since the last checkpoint, whatever it was written for; but never so often that
/// saving takes more than a twentieth of the time.
class SaveTimer {
 public:
  explicit SaveTimer(double minutes) : interval_(60 * minutes) {}

  bool due() const { return interval_ > 0 && since_save_.seconds() >= wait_; }

  /// A checkpoint is written, which took `seconds`.
  void saved(double seconds) {
    wait_ = std::max(interval_, kSecondsPerSecondOfSaving * seconds);
    since_save_ = {};
  }

  /// Seconds from the last checkpoint to the next.
  double wait() const { return wait_; }

 private:
  static constexpr double kSecondsPerSecondOfSaving = 19;

  double interval_;  ///< seconds
  double wait_ = interval_;
  Stopwatch since_save_;
};

}  // namespace perceiver
