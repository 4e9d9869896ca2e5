// Words for messages: quoting what a file contains, and finding the name somebody probably meant.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace perceiver {

/// The text in single quotes, on one line, control characters as \xNN, cut after 60 bytes.
std::string quote(std::string_view text);

/// Levenshtein distance in bytes, or `limit` if it is not smaller.
size_t edit_distance(std::string_view a, std::string_view b, size_t limit);

/// The candidate (an index) with the smallest edit distance to `word`, the first of several; `candidates`
/// must not be empty.
size_t nearest_word(std::string_view word, const std::vector<std::string_view>& candidates);

/// True if the text is well-formed UTF-8 (no overlong forms, surrogates or values past U+10FFFF).
bool is_utf8(std::string_view text);

}  // namespace perceiver
