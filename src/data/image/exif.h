// The orientation that EXIF data give a picture.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "data/image/orientation.h"
#include "data/source_file.h"

namespace perceiver {

struct ExifOrientation {
  Orientation value = Orientation::upright;
  std::string damage;  ///< why it could not be found; empty: it was, or the data have none
};

/// Reads the tag Orientation in the first directory of EXIF data (a TIFF header in either byte order and what
/// follows it; a preceding "Exif\0\0" is skipped). The data are not trusted; nothing outside of them is read.
/// Without the tag, or with 0, which cameras write for "unknown", the picture is upright.
ExifOrientation exif_orientation(std::span<const std::byte> exif);

/// The orientation of a whole file: that of its first APP1 segment with EXIF data before the first scan of a
/// JPEG, or of its first chunk eXIf with a correct checksum in a PNG. Upright without such data.
ExifOrientation jpeg_orientation(std::span<const std::byte> file);
ExifOrientation png_orientation(std::span<const std::byte> file);

/// Reports damaged EXIF data as a repair, if there is damage.
void report_damage(const ExifOrientation& exif, const SourceFile& file);

}  // namespace perceiver
