// Parses the JSON header of a safetensors file event by event. Only the three levels of the format are
// accepted, so neither nesting nor a document tree can exhaust memory.
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
  std::vector<SafetensorsEntry> entries;  ///< in the order of the header, names unique, ranges unchecked
};

/// `text` is only the header; `file_offset` is the byte at which it starts in the file, for errors.
SafetensorsHeader parse_safetensors_header(std::string_view text, uint64_t file_offset,
                                           const std::string& source);

}  // namespace perceiver
