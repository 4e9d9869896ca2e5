// EXIF 2.3 section 4.6: a TIFF header, then directories of 12-byte entries (tag, type, count, value).
#include "data/image/exif.h"

#include <cstdint>
#include <string_view>

#include "base/check.h"

namespace perceiver {
namespace {

constexpr uint32_t orientation_tag = 0x0112;
constexpr size_t entry_bytes = 12;
constexpr uint32_t byte_type = 1, short_type = 3, long_type = 4;

/// Integers at an offset; 0 outside of the data, so callers check first.
struct TiffBytes {
  std::span<const std::byte> data;
  bool big_endian = false;

  bool holds(uint64_t at, uint64_t count) const { return at <= data.size() && count <= data.size() - at; }
  uint32_t integer(size_t at, size_t width) const {
    uint32_t value = 0;
    if (!holds(at, width)) return value;
    for (size_t i = 0; i < width; ++i)
      value = value << 8 | std::to_integer<uint32_t>(data[at + (big_endian ? i : width - 1 - i)]);
    return value;
  }
};

size_t width_of(uint32_t type) {
  switch (type) {
    case byte_type:
      return 1;
    case short_type:
      return 2;
    case long_type:
      return 4;
    default:
      return 0;
  }
}

ExifOrientation orientation_of_entry(const TiffBytes& tiff, size_t entry) {
  const uint32_t type = tiff.integer(entry + 2, 2), count = tiff.integer(entry + 4, 4);
  const size_t width = width_of(type);
  if (width == 0 || count != 1)
    return {.damage = fmt::format("the orientation has {} values of type {}", count, type)};
  const uint32_t value = tiff.integer(entry + 8, width);
  if (value > 8) return {.damage = fmt::format("the orientation is {}, not 1 to 8", value)};
  return {.value = value == 0 ? Orientation::upright : static_cast<Orientation>(value), .damage = {}};
}

}  // namespace

ExifOrientation exif_orientation(std::span<const std::byte> exif) {
  constexpr std::string_view name("Exif\0\0", 6);
  std::string_view text(reinterpret_cast<const char*>(exif.data()), exif.size());
  if (text.starts_with(name)) text.remove_prefix(name.size());
  TiffBytes tiff{.data = std::as_bytes(std::span(text))};
  tiff.big_endian = text.starts_with("MM");
  if (!tiff.holds(0, 8) || !(tiff.big_endian || text.starts_with("II")) || tiff.integer(2, 2) != 42)
    return {.damage = "no TIFF header"};
  const size_t directory = tiff.integer(4, 4);
  if (!tiff.holds(directory, 2)) return {.damage = "the directory is outside of them"};
  const uint32_t entries = tiff.integer(directory, 2);
  for (uint32_t i = 0; i < entries; ++i) {
    const size_t entry = directory + 2 + i * entry_bytes;
    if (!tiff.holds(entry, entry_bytes)) return {.damage = "the directory is cut short"};
    if (tiff.integer(entry, 2) == orientation_tag) return orientation_of_entry(tiff, entry);
  }
  return {};
}

void report_damage(const ExifOrientation& exif, const SourceFile& file) {
  if (exif.damage.empty()) return;
  file.repaired(fmt::format("the EXIF data are damaged ({}); the picture is taken as stored", exif.damage));
}

}  // namespace perceiver
