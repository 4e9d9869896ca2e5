#include "data/image/resize.h"

#include <algorithm>

#include "base/check.h"

namespace perceiver {
namespace {

/// Adds weight × pixel for a run of pixels to `sum`, channel by channel.
template <int channels>
void add_run(const uint8_t* pixel, const std::vector<uint64_t>& weights, uint64_t* sum) {
  uint64_t total[channels] = {};
  for (const uint64_t weight : weights)
    for (int c = 0; c < channels; ++c) total[c] += weight * *pixel++;
  std::copy_n(total, channels, sum);
}

}  // namespace

Region centre_region(int64_t picture_width, int64_t picture_height, int64_t width, int64_t height) {
  PERCEIVER_ASSERT(width >= 1 && height >= 1 && picture_width >= 1 && picture_height >= 1);
  const auto scaled = [](int64_t side, int64_t by, int64_t over) {
    return std::max<int64_t>(1, (2 * side * by + over) / (2 * over));
  };
  const bool wide = picture_width * height > picture_height * width;
  const int64_t w = wide ? std::min(picture_width, scaled(picture_height, width, height)) : picture_width;
  const int64_t h = wide ? picture_height : std::min(picture_height, scaled(picture_width, height, width));
  return {(picture_width - w) / 2, (picture_height - h) / 2, w, h};
}

/// If the axis is divided into from × to parts, an old pixel is `to` parts long and a new one `from`.
std::vector<AreaResizer::Cover> AreaResizer::covers(int64_t from, int64_t to) {
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

AreaResizer::AreaResizer(int64_t old_width, int64_t old_height, int64_t width, int64_t height,
                         int64_t channels)
    : old_height_(old_height),
      width_(width),
      height_(height),
      channels_(channels),
      area_(static_cast<uint64_t>(old_width * old_height)),
      columns_(covers(old_width, width)),
      rows_(covers(old_height, height)),
      line_(static_cast<size_t>(width * channels)),
      sums_(static_cast<size_t>(height * width * channels)) {
  PERCEIVER_ASSERT(width >= 1 && height >= 1 && old_width >= 1 && old_height >= 1);
  PERCEIVER_ASSERT(channels == 1 || channels == 3);
}

void AreaResizer::add(const uint8_t* row) {
  PERCEIVER_ASSERT(y_ < old_height_);
  uint64_t* line = line_.data();
  for (const Cover& cover : columns_) {
    const uint8_t* pixel = row + cover.first * channels_;
    channels_ == 1 ? add_run<1>(pixel, cover.weights, line) : add_run<3>(pixel, cover.weights, line);
    line += channels_;
  }
  for (int64_t i = first_; i < height_ && rows_[static_cast<size_t>(i)].first <= y_; ++i) {
    const Cover& cover = rows_[static_cast<size_t>(i)];
    const auto place = static_cast<size_t>(y_ - cover.first);
    if (place + 1 >= cover.weights.size()) first_ = i + 1;
    if (place >= cover.weights.size()) continue;
    uint64_t* sum = sums_.data() + i * width_ * channels_;
    for (size_t k = 0; k < line_.size(); ++k) sum[k] += cover.weights[place] * line_[k];
  }
  ++y_;
}

Image AreaResizer::take() const {
  PERCEIVER_ASSERT(y_ == old_height_);
  Image image(width_, height_, channels_);
  std::transform(sums_.begin(), sums_.end(), image.pixels.begin(),
                 [&](uint64_t sum) { return static_cast<uint8_t>((sum + area_ / 2) / area_); });
  return image;
}

Image area_resize(const Image& image, int64_t width, int64_t height) {
  if (image.width == width && image.height == height) return image;
  AreaResizer resizer(image.width, image.height, width, height, image.channels);
  for (int64_t y = 0; y < image.height; ++y) resizer.add(image.at(0, y));
  return resizer.take();
}

void convert_channels(const uint8_t* from, int64_t from_channels, int64_t count, uint8_t* to,
                      int64_t to_channels) {
  if (from_channels == to_channels) {
    std::copy_n(from, count * from_channels, to);
  } else if (to_channels == 3) {
    for (int64_t i = 0; i < count; ++i, to += 3) std::fill_n(to, 3, from[i]);
  } else {
    for (int64_t i = 0; i < count; ++i, from += 3)
      to[i] = static_cast<uint8_t>((299 * from[0] + 587 * from[1] + 114 * from[2] + 500) / 1000);
  }
}

}  // namespace perceiver
