// The list of what was repaired in a MIDI file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"

namespace perceiver {

/// Keeps the first `most` lines and the number of the others: a hostile file has thousands.
class MidiRepairs {
 public:
  static constexpr int64_t most = 20;

  template <typename... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    if (count_++ < most) lines_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  /// The lines, and one that counts the others if there are any.
  std::vector<std::string> lines() && {
    if (count_ > most) lines_.push_back(fmt::format("and {} more faults", count_ - most));
    return std::move(lines_);
  }

 private:
  std::vector<std::string> lines_;
  int64_t count_ = 0;
};

}  // namespace perceiver
