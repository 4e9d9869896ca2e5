// Text of several lines for a terminal.
#pragma once

#include <string>
#include <string_view>

#include "base/text.h"

namespace perceiver::program {

/// Printable text (base/text.h) whose lines stay lines.
inline std::string printable_lines(std::string_view text) {
  std::string result;
  for (size_t end = text.find('\n'); end != std::string_view::npos; end = text.find('\n')) {
    result += printable(text.substr(0, end)) + '\n';
    text.remove_prefix(end + 1);
  }
  return result + printable(text);
}

}  // namespace perceiver::program
