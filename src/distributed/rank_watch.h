// Which ranks keep the others waiting.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "distributed/member.h"

namespace perceiver {

/// Time that this process was there to see: it stands still while the process is stopped (SIGSTOP, a batch
/// system that suspends jobs), so that nobody is blamed afterwards.
class WatchClock {
 public:
  using Time = std::chrono::steady_clock::time_point;
  /// To be called several times a second; each call counts for at most a second.
  void advance(Time now);
  /// Seconds since the first call.
  double seconds() const { return seconds_; }

 private:
  Time last_{};
  double seconds_ = 0;
};

/// What a rank tells rank 0 about once a second.
struct RankStatus {
  int64_t finished = 0;            ///< waits that it has ended
  double waited = -1;              ///< seconds in the present one; -1: it does not wait
  std::string what = "the start";  ///< what it waits for, or waited for last: "step 12"
  double silent = 0;               ///< seconds since it said this
  double worked = -1;              ///< seconds since World::still_working; -1: never called
};
std::string to_text(const RankStatus& status);
RankStatus parse_status(std::string_view text);

/// If a rank has waited longer than `limit` seconds, or was not heard of for so long: one line that names
/// those it waits for; else empty. It may wait longer for a rank whose last World::still_working is not as
/// long ago. `silence`: seconds after which a rank that says nothing has stopped.
std::string overdue(const std::vector<Member>& members, const std::vector<RankStatus>& states, double limit,
                    double silence);

}  // namespace perceiver
