// PNG and JPEG files as pictures, read as hostile input.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "data/image/image.h"

namespace perceiver {

/// What is refused before anything is allocated. By default: 64 Mi pixels, so that a decoded picture has at
/// most 192 MiB, and a progressive JPEG needs at most 512 MiB while it is decoded.
struct ImageLimits {
  int64_t side = 65'535;               ///< pixels of width or height
  int64_t pixels = int64_t{64} << 20;  ///< width × height
  int progressive_scans = 200;         ///< of a JPEG; each costs as much as decoding the whole picture
};

/// What lies behind transparent pixels.
enum class Background { white, black };

/// A picture from a PNG or JPEG file of any size and colour type, told by its first bytes: grey with one
/// channel, else RGB. 16-bit samples are rounded to 8; palettes are looked up; alpha and transparent colours
/// are blended with `background` (in the stored values, as browsers do); YCbCr, CMYK and YCCK become RGB
/// (Adobe's inverted CMYK where the file says so; no colour profile is applied). Colour profiles, gamma and
/// EXIF orientation are ignored. Throws `user`, naming `source`, for a file that is neither, damaged, cut
/// short or beyond `limits`.
Image read_image(std::span<const std::byte> bytes, const std::string& source, Background background,
                 const ImageLimits& limits = {});

/// The two readers behind it.
Image read_png(std::span<const std::byte> bytes, const std::string& source, Background background,
               const ImageLimits& limits);
Image read_jpeg(std::span<const std::byte> bytes, const std::string& source, const ImageLimits& limits);

/// Throws `user` if a picture is empty or beyond the limits.
void check_image_size(int64_t width, int64_t height, const std::string& source, const ImageLimits& limits);

}  // namespace perceiver
