#include "io/safetensors_checksum.h"

#include <fmt/format.h>

#include <algorithm>

#include "io/checksum.h"

namespace perceiver {

std::string safetensors_checksum(const std::map<std::string, std::string>& metadata,
                                 std::vector<SafetensorsContent> tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const SafetensorsContent& a, const SafetensorsContent& b) {
    return a.entry->name < b.entry->name;
  });
  Checksum checksum;
  // Lengths separate the parts: no text can imitate the boundary between two of them.
  const auto add = [&](const std::string& text) {
    const uint64_t size = text.size();
    checksum.update(std::as_bytes(std::span(&size, 1)));
    checksum.update(std::as_bytes(std::span(text)));
  };
  for (const auto& [key, value] : metadata) {
    if (key == safetensors_checksum_key) continue;
    add(key);
    add(value);
  }
  for (const SafetensorsContent& tensor : tensors) {
    add(fmt::format("tensor {} {} [{}]", tensor.entry->name, tensor.entry->dtype,
                    fmt::join(tensor.entry->shape, ",")));
    checksum.update(tensor.bytes);
  }
  return hexadecimal(checksum.digest());
}

}  // namespace perceiver
