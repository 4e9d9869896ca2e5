// Text from outside: whether it is UTF-8, and how messages show it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace perceiver {

/// Whether the text is well-formed UTF-8 (no overlong forms, surrogates or values past U+10FFFF).
bool is_utf8(std::string_view text);
/// Length in bytes of the longest prefix that is well-formed UTF-8.
size_t utf8_prefix(std::string_view text);

/// The text on one line, with control characters and bytes that are not UTF-8 as \xNN.
std::string printable(std::string_view text);

/// The printable text in single quotes, cut off after 60 bytes.
std::string quote(std::string_view text);

}  // namespace perceiver
