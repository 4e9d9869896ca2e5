// EXIF data, and pictures that have them.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <string>

namespace perceiver::testing {

inline std::string tiff_integer(uint32_t value, int width, bool big_endian) {
  std::string text;
  for (int i = 0; i < width; ++i) text += static_cast<char>(value >> (8 * (big_endian ? width - 1 - i : i)));
  return text;
}

/// A TIFF header and a directory of two entries, the second of which is the orientation.
inline std::string exif_bytes(uint32_t orientation, bool big_endian = false, uint32_t type = 3,
                              uint32_t count = 1) {
  const auto integer = [&](uint32_t value, int width) { return tiff_integer(value, width, big_endian); };
  std::string value = integer(orientation, type == 4 ? 4 : type == 1 ? 1 : 2);
  value.resize(4);
  return (big_endian ? "MM" : "II") + integer(42, 2) + integer(8, 4) + integer(2, 2) +  //
         integer(0x0100, 2) + integer(4, 2) + integer(1, 4) + integer(640, 4) +         //
         integer(0x0112, 2) + integer(type, 2) + integer(count, 4) + value + integer(0, 4);
}

/// Puts a segment APP1 at the beginning of a JPEG.
inline std::string with_jpeg_exif(std::string jpeg, const std::string& exif) {
  const std::string content = std::string("Exif\0\0", 6) + exif;
  const auto length = static_cast<uint32_t>(content.size() + 2);
  return jpeg.insert(2, "\xFF\xE1" + tiff_integer(length, 2, true) + content);
}

inline std::string png_chunk(const std::string& name, const std::string& content) {
  const std::string named = name + content;
  const auto sum = ::crc32(0, reinterpret_cast<const Bytef*>(named.data()), static_cast<uInt>(named.size()));
  return tiff_integer(static_cast<uint32_t>(content.size()), 4, true) + named +
         tiff_integer(static_cast<uint32_t>(sum), 4, true);
}

/// Puts a chunk after the header of a PNG, or before its end.
inline std::string with_png_chunk(std::string png, const std::string& chunk, bool at_the_end = false) {
  return png.insert(at_the_end ? png.size() - 12 : 33, chunk);
}

}  // namespace perceiver::testing
