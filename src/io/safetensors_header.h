// The JSON header of a safetensors file, read event by event: nothing but the format's own three levels is
// accepted, so neither nesting nor a document tree can use up memory.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "io/safetensors.h"

namespace perceiver {

struct SafetensorsHeader {
  std::map<std::string, std::string> metadata;
  std::vector<SafetensorsEntry> entries;  ///< in the header's order, names distinct, ranges unchecked
};

/// `text` is the header alone, `file_offset` the byte of the file it starts at (for errors).
SafetensorsHeader parse_safetensors_header(std::string_view text, uint64_t file_offset,
                                           const std::string& source);

}  // namespace perceiver
