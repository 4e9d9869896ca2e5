// The checksum of a safetensors file's content.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "io/safetensors.h"

namespace perceiver {

struct SafetensorsContent {
  const SafetensorsEntry* entry;
  std::span<const std::byte> bytes;
};

/// What belongs under safetensors_checksum_key, 16 hexadecimal digits; a checksum in `metadata` is left out.
std::string safetensors_checksum(const std::map<std::string, std::string>& metadata,
                                 std::vector<SafetensorsContent> tensors);

}  // namespace perceiver
