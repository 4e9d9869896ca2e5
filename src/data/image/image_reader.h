// Decodes untrusted PNG and JPEG files.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "data/image/image.h"

namespace perceiver {

/// Limits that are checked before anything is allocated. The default of 64 Mi pixels bounds a decoded image
/// to 192 MiB, and the decoding of a progressive JPEG to 512 MiB.
struct ImageLimits {
  int64_t side = 65'535;               ///< pixels of width or height
  int64_t pixels = int64_t{64} << 20;  ///< width × height
  int progressive_scans = 200;         ///< of a JPEG; each costs as much as decoding the whole image
};

/// The colour behind transparent pixels.
enum class Background { white, black };

/// Decodes a PNG or JPEG file, recognized by its first bytes, of any size and colour type: grey to one
/// channel, everything else to RGB. 16-bit samples are rounded to 8; palettes are resolved; alpha and
/// transparent colours are blended with `background` (in the stored values, as browsers do); YCbCr, CMYK and
/// YCCK become RGB (inverted CMYK if the file has Adobe's marker). Colour profiles, gamma and EXIF
/// orientation are ignored. Throws `user`, naming `source`, for another format or a file that is damaged,
/// truncated or beyond `limits`.
Image read_image(std::span<const std::byte> bytes, const std::string& source, Background background,
                 const ImageLimits& limits = {});

/// The decoders of the two formats.
Image read_png(std::span<const std::byte> bytes, const std::string& source, Background background,
               const ImageLimits& limits);
Image read_jpeg(std::span<const std::byte> bytes, const std::string& source, const ImageLimits& limits);

/// Throws `user` if an image is empty or beyond the limits.
void check_image_size(int64_t width, int64_t height, const std::string& source, const ImageLimits& limits);

}  // namespace perceiver
