#include "data/image/resize.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace perceiver {
namespace {

/// The old pixels that one new pixel covers along one axis: first, first + 1, … with weights that add up to
/// the old length.
struct Cover {
  int64_t first;
  std::vector<uint64_t> weights;
};

/// If the axis is divided into from × to parts, an old pixel is `to` parts long and a new one `from`.
std::vector<Cover> covers(int64_t from, int64_t to) {
  std::vector<Cover> all;
  for (int64_t i = 0; i < to; ++i) {
    const int64_t begin = i * from, end = begin + from;
    Cover cover{begin / to, {}};
    for (int64_t k = cover.first; k * to < end; ++k)
      cover.weights.push_back(static_cast<uint64_t>(std::min(end, (k + 1) * to) - std::max(begin, k * to)));
    all.push_back(std::move(cover));
  }
  return all;
}

/// Adds weight × the weighted sums along x of row y to `sums` [width, channels].
void add_row(const Image& image, int64_t y, const std::vector<Cover>& columns, uint64_t weight,
             std::vector<uint64_t>& sums) {
  uint64_t* sum = sums.data();
  for (const Cover& cover : columns) {
    const uint8_t* pixel = image.at(cover.first, y);
    for (const uint64_t part : cover.weights)
      for (int64_t c = 0; c < image.channels; ++c) sum[c] += weight * part * *pixel++;
    sum += image.channels;
  }
}

}  // namespace

Image cut(const Image& image, int64_t left, int64_t top, int64_t width, int64_t height) {
  PERCEIVER_ASSERT(left >= 0 && top >= 0 && width >= 1 && height >= 1);
  PERCEIVER_ASSERT(left + width <= image.width && top + height <= image.height);
  if (width == image.width && height == image.height) return image;
  Image part(width, height, image.channels);
  for (int64_t y = 0; y < height; ++y)
    std::copy_n(image.at(left, top + y), width * image.channels, part.at(0, y));
  return part;
}

Image centre_crop(const Image& image, int64_t width, int64_t height) {
  PERCEIVER_ASSERT(width >= 1 && height >= 1 && image.width >= 1 && image.height >= 1);
  const auto scaled = [](int64_t side, int64_t by, int64_t over) {
    return std::max<int64_t>(1, (2 * side * by + over) / (2 * over));
  };
  const bool wide = image.width * height > image.height * width;
  const int64_t w = wide ? std::min(image.width, scaled(image.height, width, height)) : image.width;
  const int64_t h = wide ? image.height : std::min(image.height, scaled(image.width, height, width));
  return cut(image, (image.width - w) / 2, (image.height - h) / 2, w, h);
}

Image area_resize(const Image& image, int64_t width, int64_t height) {
  PERCEIVER_ASSERT(width >= 1 && height >= 1 && image.width >= 1 && image.height >= 1);
  if (image.width == width && image.height == height) return image;
  const std::vector<Cover> columns = covers(image.width, width), rows = covers(image.height, height);
  const auto area = static_cast<uint64_t>(image.width * image.height);  // the sum of the weights of a pixel
  Image small(width, height, image.channels);
  std::vector<uint64_t> sums(static_cast<size_t>(width * image.channels));
  for (int64_t y = 0; y < height; ++y) {
    std::fill(sums.begin(), sums.end(), 0);
    const Cover& cover = rows[static_cast<size_t>(y)];
    for (size_t k = 0; k < cover.weights.size(); ++k)
      add_row(image, cover.first + static_cast<int64_t>(k), columns, cover.weights[k], sums);
    std::transform(sums.begin(), sums.end(), small.at(0, y),
                   [&](uint64_t sum) { return static_cast<uint8_t>((sum + area / 2) / area); });
  }
  return small;
}

Image to_channels(const Image& image, int64_t channels) {
  if (image.channels == channels) return image;
  Image out(image.width, image.height, channels);
  const uint8_t* from = image.pixels.data();
  for (int64_t i = 0; i < image.width * image.height; ++i, from += image.channels) {
    uint8_t* to = out.pixels.data() + i * channels;
    if (channels == 3) {
      std::fill_n(to, 3, *from);
    } else {
      *to = static_cast<uint8_t>((299 * from[0] + 587 * from[1] + 114 * from[2] + 500) / 1000);
    }
  }
  return out;
}

}  // namespace perceiver
