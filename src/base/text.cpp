#include "base/text.h"

#include <fmt/format.h>

#include <cstdint>

#include "base/utf8.h"

namespace perceiver {
namespace {

constexpr size_t quoted_bytes = 60;

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
