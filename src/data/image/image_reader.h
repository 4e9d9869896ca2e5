// Decodes untrusted PNG and JPEG files.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "data/image/orientation.h"
#include "data/source_file.h"
#include "perceiver/media.h"

namespace perceiver {

/// Limits that are checked before anything is allocated. Rows are decoded one after the other, so that most
/// images take the memory of a few rows; those that arrive in passes are held whole: an interlaced PNG in up
/// to 4 bytes a pixel, a progressive JPEG in up to 8 (512 and 1024 MiB by the default limit).
struct ImageLimits {
  int64_t side = 65'535;                     ///< pixels of width or height
  int64_t pixels = int64_t{256} << 20;       ///< width × height
  int64_t held_pixels = int64_t{128} << 20;  ///< width × height of an image that is held whole
  int progressive_scans = 200;               ///< of a JPEG; each costs as much as decoding the whole image
};

/// The colour behind transparent pixels.
enum class Background { white, black };

struct ImageReading {
  Background background = Background::white;
  bool exif = true;  ///< give the orientation noted in the file; false: it is not looked for
  ImageLimits limits = {};
};

/// An image whose rows follow.
struct ImageHeader {
  int64_t width = 0, height = 0;  ///< pixels, as stored
  int64_t channels = 3;           ///< 1: grey, 3: red, green, blue (sRGB)
  Orientation orientation = Orientation::upright;
};

/// Receives a decoded image.
class ImageRows {
 public:
  virtual ~ImageRows() = default;
  /// Called once, before the rows. May throw, to refuse the image before it is decoded.
  virtual void begin(const ImageHeader& header) = 0;
  /// The next row from the top: [width, channels].
  virtual void row(const uint8_t* pixels) = 0;
};

/// Decodes a PNG or JPEG file, recognized by its first bytes, of any size and colour type, row by row: grey
/// to one channel, everything else to RGB. 16-bit samples are rounded to 8; palettes are resolved; alpha and
/// transparent colours are blended with the background (in the stored values, as browsers do); YCbCr, CMYK
/// and YCCK become RGB (inverted CMYK if the file has Adobe's marker). Colour profiles and gamma are ignored.
/// A file that has all its pixels but is damaged otherwise is read and reported as repaired, after its last
/// row. Throws `user`, naming the file, for another format or a file that lacks pixels, is damaged or beyond
/// the limits; some rows may have been handed over before.
void scan_image(const SourceFile& file, const ImageReading& reading, ImageRows& rows);

/// The whole image, upright.
Image read_image(std::span<const std::byte> bytes, const std::string& source, Background background,
                 const ImageLimits& limits = {});

/// The decoders of the two formats.
void scan_png(const SourceFile& file, const ImageReading& reading, ImageRows& rows);
void scan_jpeg(const SourceFile& file, const ImageReading& reading, ImageRows& rows);

/// Throws `user` if an image is empty or beyond the limits. `passes`: why it has to be held whole, e.g. "an
/// interlaced PNG"; null: it has not.
void check_image_size(int64_t width, int64_t height, const char* passes, const std::string& source,
                      const ImageLimits& limits);

}  // namespace perceiver
