#include "config/words.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <numeric>

namespace perceiver {
namespace {

constexpr size_t quoted_bytes = 60;
constexpr size_t compared_bytes = 64;  // names are shorter; what is cut off cannot make a better match

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

std::string quote(std::string_view text) {
  const bool cut = text.size() > quoted_bytes;
  if (cut) {
    size_t end = quoted_bytes;
    while (end > 0 && is_continuation(text[end])) --end;
    text = text.substr(0, end);
  }
  std::string result = "'";
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte < 0x20 || byte == 0x7F) {
      result += fmt::format("\\x{:02x}", byte);
    } else {
      result += c;
    }
  }
  return result + (cut ? "...'" : "'");
}

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

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = sequence_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

}  // namespace perceiver
