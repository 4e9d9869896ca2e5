// Strings that end a text arriving in pieces.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace perceiver {

/// Throws `user` for an empty string, which every text starts with.
void check_stop_strings(const std::vector<std::string>& strings);

/// Passes text on until the first of the strings appears; holds back what may be the start of one.
class StopStrings {
 public:
  /// Throws as check_stop_strings does.
  explicit StopStrings(std::vector<std::string> strings);

  /// Takes more text; returns what certainly comes before any of the strings.
  std::string put(std::string_view text);
  /// The text has ended: returns what was held back, unless a string was found.
  std::string flush();
  bool found() const { return found_; }

 private:
  size_t held_back() const;

  std::vector<std::string> strings_;
  std::string pending_;
  bool found_ = false;
};

}  // namespace perceiver
