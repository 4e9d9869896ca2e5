// Any bytes, as EXIF data or as a whole JPEG or PNG, give an orientation from 1 to 8 and a message of one
// line.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "data/image/exif.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void check(const perceiver::ExifOrientation& exif) {
  require(exif.value >= perceiver::Orientation::upright && exif.value <= perceiver::Orientation::rotate_270);
  require(exif.damage.empty() || exif.value == perceiver::Orientation::upright);
  for (const char c : exif.damage) require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> input = std::as_bytes(std::span(data, size));
  check(perceiver::exif_orientation(input));
  check(perceiver::jpeg_orientation(input));
  check(perceiver::png_orientation(input));
  return 0;
}
