// Finds EXIF data in picture files without decoding them.
#include "data/image/exif.h"

#include <zlib.h>

#include <cstdint>
#include <string_view>

namespace perceiver {
namespace {

uint8_t byte_at(std::span<const std::byte> file, size_t at) {
  return std::to_integer<uint8_t>(file[at]);
}

uint32_t big_endian(std::span<const std::byte> file, size_t at, size_t width) {
  uint32_t value = 0;
  for (size_t i = 0; i < width; ++i) value = value << 8 | byte_at(file, at + i);
  return value;
}

bool starts_with(std::span<const std::byte> bytes, std::string_view text) {
  return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()).starts_with(text);
}

/// Markers without a length: TEM, RST0 to RST7, SOI.
bool stands_alone(uint8_t marker) {
  return marker == 0x01 || (marker >= 0xD0 && marker <= 0xD8);
}

/// Empty if there are none.
std::span<const std::byte> jpeg_exif(std::span<const std::byte> file) {
  constexpr uint8_t end_of_image = 0xD9, start_of_scan = 0xDA, app1 = 0xE1;
  for (size_t at = 2; at + 4 <= file.size();) {
    const uint8_t marker = byte_at(file, at + 1);
    if (byte_at(file, at) != 0xFF || marker == 0xFF || marker == 0) {  // garbage or filling
      ++at;
      continue;
    }
    if (marker == end_of_image || marker == start_of_scan) return {};
    at += 2;
    if (stands_alone(marker)) continue;
    const size_t length = big_endian(file, at, 2);
    if (length < 2 || length > file.size() - at) return {};
    const auto segment = file.subspan(at + 2, length - 2);
    if (marker == app1 && starts_with(segment, std::string_view("Exif\0\0", 6))) return segment;
    at += length;
  }
  return {};
}

std::span<const std::byte> png_exif(std::span<const std::byte> file) {
  for (size_t at = 8; at + 12 <= file.size();) {
    const size_t length = big_endian(file, at, 4);
    if (length > file.size() - at - 12) return {};
    const auto named = file.subspan(at + 4, 4 + length);
    if (starts_with(named, "eXIf")) {
      const auto sum = ::crc32_z(0, reinterpret_cast<const Bytef*>(named.data()), named.size());
      if (sum == big_endian(file, at + 8 + length, 4)) return named.subspan(4);
    }
    at += 12 + length;
  }
  return {};
}

}  // namespace

ExifOrientation jpeg_orientation(std::span<const std::byte> file) {
  const std::span<const std::byte> exif = jpeg_exif(file);
  return exif.empty() ? ExifOrientation{} : exif_orientation(exif);
}

ExifOrientation png_orientation(std::span<const std::byte> file) {
  const std::span<const std::byte> exif = png_exif(file);
  return exif.empty() ? ExifOrientation{} : exif_orientation(exif);
}

}  // namespace perceiver
