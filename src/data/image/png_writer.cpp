#include "data/image/png_writer.h"

#include <png.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace perceiver {

std::string write_png(const Image& image) {
  PERCEIVER_ASSERT(image.channels == 1 || image.channels == 3);
  PERCEIVER_ASSERT(static_cast<int64_t>(image.pixels.size()) == image.width * image.height * image.channels);
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.width = static_cast<png_uint_32>(image.width);
  png.height = static_cast<png_uint_32>(image.height);
  png.format = image.channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(png);
  std::string out(size, '\0');
  const auto row_stride = static_cast<png_int_32>(image.width * image.channels);
  if (png_image_write_to_memory(&png, out.data(), &size, 0, image.pixels.data(), row_stride, nullptr) == 0)
    throw_failure("cannot write a PNG of {} x {} pixels: {}", image.width, image.height, png.message);
  out.resize(size);
  return out;
}

Image image_grid(std::span<const Image> images, int64_t gap) {
  if (images.empty()) throw_user("an image grid needs at least one image");
  const Image& first = images[0];
  const auto count = static_cast<int64_t>(images.size());
  const auto columns = static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(count))));
  const int64_t rows = (count + columns - 1) / columns;
  Image grid(columns * (first.width + gap) - gap, rows * (first.height + gap) - gap, first.channels);
  std::fill(grid.pixels.begin(), grid.pixels.end(), uint8_t{255});
  for (int64_t i = 0; i < count; ++i) {
    const Image& image = images[static_cast<size_t>(i)];
    if (image.width != first.width || image.height != first.height || image.channels != first.channels)
      throw_user("the images of a grid must have the same size and channels");
    const int64_t x = i % columns * (first.width + gap), y = i / columns * (first.height + gap);
    for (int64_t row = 0; row < image.height; ++row)
      std::copy_n(image.at(0, row), image.width * image.channels, grid.at(x, y + row));
  }
  return grid;
}

}  // namespace perceiver
