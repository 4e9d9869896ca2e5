#include "data/image/jpeg_strays.h"

#include <cstdint>
#include <string_view>

namespace perceiver {
namespace {

bool is_restart(char c) {
  const auto marker = static_cast<uint8_t>(c);
  return marker >= 0xD0 && marker <= 0xD7;
}

}  // namespace

std::string without_stray_restarts(std::span<const std::byte> file, size_t scan) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  std::string clean;
  size_t copied = 0;
  for (size_t at = text.find('\xFF', scan); at + 1 < text.size(); at = text.find('\xFF', at + 1)) {
    if (is_restart(text[at + 1])) {
      clean += text.substr(copied, at - copied);
      copied = at + 2;
    } else if (text[at + 1] != '\0' && text[at + 1] != '\xFF') {
      break;  // another marker ends the scan
    }
  }
  if (copied > 0) clean += text.substr(copied);
  return clean;
}

}  // namespace perceiver
