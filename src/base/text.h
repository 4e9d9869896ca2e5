// Text that came from outside: is it UTF-8, and how a message may show it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace perceiver {

/// True if the text is well-formed UTF-8 (no overlong forms, surrogates or values past U+10FFFF).
bool is_utf8(std::string_view text);
/// Length of the longest beginning of the text that is well-formed UTF-8, bytes.
size_t utf8_prefix(std::string_view text);

/// The text on one line: control characters as \xNN.
std::string printable(std::string_view text);

/// The printable text in single quotes, cut after 60 bytes.
std::string quote(std::string_view text);

}  // namespace perceiver
