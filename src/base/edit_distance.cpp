#include "base/edit_distance.h"

#include <algorithm>
#include <cstdint>
#include <numeric>

namespace perceiver {
namespace {

constexpr size_t compared_bytes = 64;  // names are shorter; the rest cannot improve a match

}  // namespace

size_t edit_distance(std::string_view a, std::string_view b, size_t limit) {
  a = a.substr(0, compared_bytes);
  b = b.substr(0, compared_bytes);
  if (std::max(a.size(), b.size()) - std::min(a.size(), b.size()) >= limit) return limit;
  size_t row[compared_bytes + 1];
  std::iota(row, row + b.size() + 1, size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    size_t smallest = row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
      smallest = std::min(smallest, row[j + 1]);
    }
    if (smallest >= limit) return limit;
  }
  return std::min(limit, row[b.size()]);
}

size_t nearest_word(std::string_view word, const std::vector<std::string_view>& candidates) {
  size_t best = 0;
  size_t best_distance = SIZE_MAX;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const size_t distance = edit_distance(word, candidates[i], best_distance);
    if (distance < best_distance) best = i, best_distance = distance;
  }
  return best;
}

}  // namespace perceiver
