// Images as sequences of bytes in a chosen order, and back.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/sampling_mask.h"
#include "perceiver/media.h"

namespace perceiver {

enum class ImageOrder { raster, r_g_b, random, user };

/// The size of all images in a dataset, and the meaning of their ids.
struct ImageShape {
  int64_t width = 0, height = 0, channels = 3;
  /// Each channel has its own 256 ids: 3 + 256 channel + value; otherwise 3 + value.
  bool own_ids = false;

  /// Bytes of an image. Byte (y · width + x) · channels + c is channel c of pixel (x, y).
  int64_t dimensions() const { return width * height * channels; }
  int64_t vocabulary() const { return 3 + 256 * (own_ids ? channels : 1); }
  bool operator==(const ImageShape&) const = default;
};

/// The bytes of an image in sequence order, a permutation of 0 … dimensions − 1:
/// raster: rows from the top, pixels from the left, interleaved channels; r_g_b: the same, one channel after
/// the other; random: a permutation determined by `seed` and the number of dimensions. Not for `user`.
std::vector<int32_t> make_image_order(ImageOrder order, const ImageShape& shape, uint64_t seed);

/// Where in the sequence the byte is that a picture with left and right swapped has at each place:
/// [dimensions]. Done twice it changes nothing.
std::vector<int32_t> mirrored_places(const ImageShape& shape, std::span<const int32_t> order);

/// Parses a permutation: each integer from 0 to dimensions − 1 once, separated by white space or commas.
/// Throws `user` with `source` and the line of the first error.
std::vector<int32_t> parse_image_order(std::string_view text, const ImageShape& shape,
                                       const std::string& source);

/// Ids of an image of that shape, without SOS.
std::vector<int32_t> encode_image(const Image& image, const ImageShape& shape,
                                  std::span<const int32_t> order);

/// An image from generated ids in that order: ids below 3 are skipped; bytes missing at the end stay grey
/// (128). Throws `user` for an id outside the vocabulary or of the wrong channel for its place.
Image decode_image(std::span<const int32_t> ids, const ImageShape& shape, std::span<const int32_t> order);

/// Positions of SOS and of all ids, [1 + dimensions, 3]: SOS (1, 1, 1), a byte (x + 2, y + 2, channel + 2).
std::vector<int32_t> image_positions(const ImageShape& shape, std::span<const int32_t> order);

/// The order given by such positions, [n, 3] without SOS; n may be less than the dimensions. Throws `user` if
/// a position is outside the image.
std::vector<int32_t> order_of_positions(std::span<const int32_t> positions, const ImageShape& shape);

/// The ids allowed at each place of the order; empty if they are the same everywhere.
SamplingMask image_mask(const ImageShape& shape, std::span<const int32_t> order);

/// An order for completing an image: the known bytes first, then the others as in `order`. A model predicts
/// the byte that follows the last one in `order`, so the known byte before the first unknown one is placed
/// last among the known. This does not help at further gaps, each of which costs the model a wrong guess at
/// its start. `known`: [dimensions], by byte. Sets `known_count`.
std::vector<int32_t> completion_order(std::span<const int32_t> order, const std::vector<bool>& known,
                                      int64_t& known_count);

}  // namespace perceiver
