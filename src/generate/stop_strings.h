// Strings that end a text which arrives in pieces.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace perceiver {

/// Hands text on until the first of the strings appears. What may be the beginning of one is held back.
class StopStrings {
 public:
  /// Throws `user` for an empty string, which every text begins with.
  explicit StopStrings(std::vector<std::string> strings);

  /// Takes more text; returns what now certainly stands before any of the strings.
  std::string put(std::string_view text);
  /// The text's end: what was held back, unless one was found.
  std::string flush();
  bool found() const { return found_; }

 private:
  size_t held_back() const;

  std::vector<std::string> strings_;
  std::string pending_;
  bool found_ = false;
};

}  // namespace perceiver
