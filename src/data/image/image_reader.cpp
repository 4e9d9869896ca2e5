#include "data/image/image_reader.h"

#include "base/check.h"
#include "data/image/fit.h"
#include "data/image/image_format.h"

namespace perceiver {
void check_image_size(int64_t width, int64_t height, const char* passes, const std::string& source,
                      const ImageLimits& limits) {
  if (width < 1 || height < 1) throw_user("{}: an empty image of {} x {} pixels", source, width, height);
  if (width > limits.side || height > limits.side || width * height > limits.pixels)
    throw_user("{}: {} x {} pixels are too many; images may have up to {} pixels, and sides of up to {}",
               source, width, height, limits.pixels, limits.side);
  if (passes != nullptr && width * height > limits.held_pixels)
    throw_user("{}: {} x {} pixels are too many for {}, which may have up to {}; save it as another kind",
               source, width, height, passes, limits.held_pixels);
}

void scan_image(const SourceFile& file, const ImageReading& reading, ImageRows& rows) {
  switch (image_format(file.bytes)) {
    case ImageFormat::png:
      return scan_png(file, reading, rows);
    case ImageFormat::jpeg:
      return scan_jpeg(file, reading, rows);
    case ImageFormat::other:
      throw_user("{}: {}", file.path, describe_other_image(file.bytes));
  }
}

Image read_image(std::span<const std::byte> bytes, const std::string& source, Background background,
                 const ImageLimits& limits) {
  StoredImage image;
  scan_image({.path = source, .bytes = bytes}, {.background = background, .exif = true, .limits = limits},
             image);
  return image.take();
}

}  // namespace perceiver
