// Finds the name that was probably meant.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

namespace perceiver {

/// Levenshtein distance in bytes, at most `limit`.
size_t edit_distance(std::string_view a, std::string_view b, size_t limit);

/// Index of the candidate with the smallest edit distance to `word`, the first in case of ties; `candidates`
/// must not be empty.
size_t nearest_word(std::string_view word, const std::vector<std::string_view>& candidates);

}  // namespace perceiver
