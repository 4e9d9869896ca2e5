#include "base/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

#include "base/utf8.h"

namespace perceiver {
namespace {

constexpr size_t quoted_bytes = 60;

/// Bytes of the character that the text begins with; 0 if it begins with none.
size_t character_length(std::string_view text) {
  Utf8State state;
  for (size_t i = 0; i < text.size() && state.put(static_cast<uint8_t>(text[i])); ++i)
    if (state.whole()) return i + 1;
  return 0;
}

}  // namespace

std::string printable(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const size_t length = character_length(text);
    const auto byte = static_cast<uint8_t>(text[0]);
    const bool c1 = length == 2 && byte == 0xC2 && static_cast<uint8_t>(text[1]) < 0xA0;
    const bool shown = length > 0 && byte >= 0x20 && byte != 0x7F && !c1;
    const size_t taken = std::max<size_t>(1, length);
    if (shown) result += text.substr(0, taken);
    for (size_t i = 0; !shown && i < taken; ++i)
      result += fmt::format("\\x{:02x}", static_cast<uint8_t>(text[i]));
    text.remove_prefix(taken);
  }
  return result;
}

std::string quote(std::string_view text) {
  if (text.size() <= quoted_bytes) return fmt::format("'{}'", printable(text));
  size_t end = quoted_bytes;
  while (end > 0 && is_utf8_continuation(static_cast<uint8_t>(text[end]))) --end;
  return fmt::format("'{}...'", printable(text.substr(0, end)));
}

bool is_utf8(std::string_view text) {
  return utf8_prefix(text) == text.size();
}

size_t utf8_prefix(std::string_view text) {
  Utf8State state;
  size_t good = 0;
  for (size_t i = 0; i < text.size() && state.put(static_cast<uint8_t>(text[i])); ++i)
    if (state.whole()) good = i + 1;
  return good;
}

}  // namespace perceiver
