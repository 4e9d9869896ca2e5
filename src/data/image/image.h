// An image in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace perceiver {

/// Bytes [height, width, channels]: rows from the top, pixels from the left, interleaved channels.
struct Image {
  int64_t width = 0;
  int64_t height = 0;
  int64_t channels = 3;  ///< 1: grey, 3: red, green, blue (sRGB)
  std::vector<uint8_t> pixels;

  Image() = default;
  /// All pixels 0.
  Image(int64_t width_, int64_t height_, int64_t channels_)
      : width(width_),
        height(height_),
        channels(channels_),
        pixels(static_cast<size_t>(width_ * height_ * channels_)) {}

  uint8_t* at(int64_t x, int64_t y) { return pixels.data() + (y * width + x) * channels; }
  const uint8_t* at(int64_t x, int64_t y) const { return pixels.data() + (y * width + x) * channels; }

  bool operator==(const Image&) const = default;
};

}  // namespace perceiver
