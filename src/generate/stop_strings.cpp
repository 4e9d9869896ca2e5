#include "generate/stop_strings.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace perceiver {

void check_stop_strings(const std::vector<std::string>& strings) {
  for (const std::string& string : strings)
    if (string.empty()) throw_user("a stop string is empty; omit it to stop nowhere");
}

StopStrings::StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {
  check_stop_strings(strings_);
}

std::string StopStrings::put(std::string_view text) {
  if (found_) return {};
  pending_ += text;
  size_t first = std::string::npos;
  for (const std::string& string : strings_) first = std::min(first, pending_.find(string));
  found_ = first != std::string::npos;
  const size_t certain = found_ ? first : pending_.size() - held_back();
  std::string out = pending_.substr(0, certain);
  pending_.erase(0, certain);
  return out;
}

std::string StopStrings::flush() {
  return found_ ? std::string() : std::exchange(pending_, {});
}

/// Length of the longest suffix of the pending text that one of the strings starts with.
size_t StopStrings::held_back() const {
  size_t longest = 0;
  for (const std::string& string : strings_) {
    const size_t most = std::min(string.size() - 1, pending_.size());
    for (size_t length = most; length > longest; --length)
      if (pending_.compare(pending_.size() - length, length, string, 0, length) == 0) longest = length;
  }
  return longest;
}

}  // namespace perceiver
