// Fits text into a terminal's line, in columns: wide characters (Chinese, emoji) take two, combining ones
// none.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "base/text.h"
#include "train/progress.h"

namespace perceiver::program {

inline constexpr size_t kNoLimit = std::numeric_limits<size_t>::max();

/// The columns of a character; approximately that of Unicode's East Asian Width.
inline size_t character_columns(char32_t character) {
  struct Range {
    char32_t first, last;
  };
  const auto within = [character](std::initializer_list<Range> ranges) {
    return std::any_of(ranges.begin(), ranges.end(),
                       [&](Range range) { return character >= range.first && character <= range.last; });
  };
  if (within({{0x300, 0x36F}, {0x200B, 0x200F}, {0x20D0, 0x20FF}, {0xFE00, 0xFE0F}})) return 0;
  const bool wide = within({{0x1100, 0x115F},
                            {0x2E80, 0x303E},
                            {0x3041, 0xA4CF},
                            {0xAC00, 0xD7A3},
                            {0xF900, 0xFAFF},
                            {0xFE30, 0xFE6F},
                            {0xFF00, 0xFF60},
                            {0xFFE0, 0xFFE6},
                            {0x1F300, 0x1F64F},
                            {0x1F680, 0x1F6FF},
                            {0x1F900, 0x1F9FF},
                            {0x20000, 0x3FFFD}});
  return wide ? 2 : 1;
}

/// Bytes of the character that starts the text; 1 for a byte that starts none.
inline size_t character_bytes(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const size_t bytes = lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  return bytes <= text.size() && is_utf8(text.substr(0, bytes)) ? bytes : 1;
}

inline size_t first_columns(std::string_view text, size_t bytes) {
  const auto lead = static_cast<unsigned char>(text[0]);
  auto character = static_cast<char32_t>(bytes == 1 ? lead : lead & (0xFF >> (bytes + 1)));
  for (size_t i = 1; i < bytes; ++i)
    character = (character << 6) | (static_cast<unsigned char>(text[i]) & 0x3F);
  return character_columns(character);
}

/// The longest beginning of the text that takes at most `columns` of them.
inline std::string_view prefix_of_columns(std::string_view text, size_t columns) {
  size_t taken = 0, used = 0;
  while (taken < text.size()) {
    const size_t bytes = character_bytes(text.substr(taken));
    used += first_columns(text.substr(taken), bytes);
    if (used > columns) break;
    taken += bytes;
  }
  return text.substr(0, taken);
}

/// Columns that the text takes.
inline size_t columns_of(std::string_view text) {
  size_t columns = 0;
  for (size_t taken = 0; taken < text.size();) {
    const size_t bytes = character_bytes(text.substr(taken));
    columns += first_columns(text.substr(taken), bytes);
    taken += bytes;
  }
  return columns;
}

/// The text, cut if it takes more than `columns`; a cut is marked.
inline std::string cut_to_columns(std::string_view text, size_t columns) {
  if (columns == kNoLimit || columns_of(text) <= columns) return std::string(text);
  if (columns == 0) return "";
  return std::string(prefix_of_columns(text, columns - 1)) + "\u2026";
}

/// The fields in their order, without those of the highest ranks that do not fit. A field of rank 0 stays.
inline std::string fit_fields(const std::vector<LineField>& fields, size_t columns) {
  int most = 0;
  for (const LineField& field : fields) most = std::max(most, field.rank);
  std::string line;
  for (int rank = most; rank >= 0; --rank) {
    line.clear();
    for (const LineField& field : fields)
      if (field.rank <= rank) line += field.text;
    if (columns == kNoLimit || columns_of(line) <= columns) break;
  }
  return line;
}

}  // namespace perceiver::program
