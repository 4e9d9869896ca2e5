#include "data/image/image_reader.h"

#include <algorithm>
#include <array>

#include "base/check.h"

namespace perceiver {
namespace {

bool starts_with(std::span<const std::byte> bytes, std::span<const uint8_t> signature) {
  return bytes.size() >= signature.size() &&
         std::equal(signature.begin(), signature.end(), bytes.begin(),
                    [](uint8_t a, std::byte b) { return std::byte(a) == b; });
}

}  // namespace

void check_image_size(int64_t width, int64_t height, const std::string& source, const ImageLimits& limits) {
  if (width < 1 || height < 1) throw_user("{}: an empty image of {} x {} pixels", source, width, height);
  if (width > limits.side || height > limits.side || width * height > limits.pixels)
    throw_user("{}: {} x {} pixels are too many; images may have up to {} pixels, and sides of up to {}",
               source, width, height, limits.pixels, limits.side);
}

Image read_image(std::span<const std::byte> bytes, const std::string& source, Background background,
                 const ImageLimits& limits) {
  constexpr std::array<uint8_t, 8> png = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
  constexpr std::array<uint8_t, 3> jpeg = {0xFF, 0xD8, 0xFF};
  if (starts_with(bytes, png)) return read_png(bytes, source, background, limits);
  if (starts_with(bytes, jpeg)) return read_jpeg(bytes, source, limits);
  throw_user("{}: byte 0: neither PNG nor JPEG, judging by its first bytes", source);
}

}  // namespace perceiver
