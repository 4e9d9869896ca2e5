// Finding the name that somebody probably meant.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

namespace perceiver {

/// Levenshtein distance in bytes, or `limit` if it is not smaller.
size_t edit_distance(std::string_view a, std::string_view b, size_t limit);

/// The candidate (an index) with the smallest edit distance to `word`, the first of several; `candidates`
/// must not be empty.
size_t nearest_word(std::string_view word, const std::vector<std::string_view>& candidates);

}  // namespace perceiver
