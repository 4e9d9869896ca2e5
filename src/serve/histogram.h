// Counts of durations by upper bound, for Prometheus.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace perceiver::serve {

/// All members are for any thread.
class Histogram {
 public:
  /// Seconds.
  static constexpr std::array<double, 12> kBounds = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                                     0.5,   1,    2.5,   5,    10,  30};

  void add(double seconds) {
    size_t i = 0;
    while (i < kBounds.size() && seconds > kBounds[i]) ++i;
    ++counts_[i];
    microseconds_ += static_cast<int64_t>(seconds * 1e6);
  }
  /// Those of at most kBounds[i] seconds; all of them for i = kBounds.size().
  int64_t up_to(size_t i) const {
    int64_t count = 0;
    for (size_t j = 0; j <= i; ++j) count += counts_[j];
    return count;
  }
  double sum() const { return static_cast<double>(microseconds_) / 1e6; }

 private:
  std::array<std::atomic<int64_t>, kBounds.size() + 1> counts_{};
  std::atomic<int64_t> microseconds_ = 0;
};

}  // namespace perceiver::serve
