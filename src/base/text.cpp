#include "base/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace perceiver {
namespace {

constexpr size_t quoted_bytes = 60;

bool is_continuation(char byte) {
  return (static_cast<uint8_t>(byte) & 0xC0) == 0x80;
}

/// Length of the well-formed UTF-8 sequence `text` starts with; 0 if there is none.
size_t sequence_length(std::string_view text) {
  const auto first = static_cast<uint8_t>(text[0]);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xC2 && first < 0xE0   ? 2
                        : first >= 0xE0 && first < 0xF0 ? 3
                        : first >= 0xF0 && first < 0xF5 ? 4
                                                        : 0;
  if (length == 0 || text.size() < length) return 0;
  if (!std::all_of(text.begin() + 1, text.begin() + static_cast<std::ptrdiff_t>(length), is_continuation))
    return 0;
  const auto second = static_cast<uint8_t>(text[1]);
  const bool overlong = (first == 0xE0 && second < 0xA0) || (first == 0xF0 && second < 0x90);
  const bool surrogate = first == 0xED && second >= 0xA0;
  const bool too_large = first == 0xF4 && second >= 0x90;
  return overlong || surrogate || too_large ? 0 : length;
}

}  // namespace

std::string printable(std::string_view text) {
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte < 0x20 || byte == 0x7F) {
      result += fmt::format("\\x{:02x}", byte);
    } else {
      result += c;
    }
  }
  return result;
}

std::string quote(std::string_view text) {
  if (text.size() <= quoted_bytes) return fmt::format("'{}'", printable(text));
  size_t end = quoted_bytes;
  while (end > 0 && is_continuation(text[end])) --end;
  return fmt::format("'{}...'", printable(text.substr(0, end)));
}

bool is_utf8(std::string_view text) {
  return utf8_prefix(text) == text.size();
}

size_t utf8_prefix(std::string_view text) {
  size_t good = 0;
  while (good < text.size()) {
    const size_t length = sequence_length(text.substr(good));
    if (length == 0) break;
    good += length;
  }
  return good;
}

}  // namespace perceiver
