// Pictures as sequences of bytes in a chosen order, and back.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/image/image.h"
#include "data/sampling_mask.h"

namespace perceiver {

enum class ImageOrder { raster, r_g_b, random, user };

/// The size that all pictures of a data set have, and what their ids mean.
struct ImageShape {
  int64_t width = 0, height = 0, channels = 3;
  /// Each channel has 256 ids of its own: 3 + 256 channel + value; otherwise 3 + value.
  bool own_ids = false;

  /// Bytes of a picture. Byte (y · width + x) · channels + c is channel c of pixel (x, y).
  int64_t dimensions() const { return width * height * channels; }
  int64_t vocabulary() const { return 3 + 256 * (own_ids ? channels : 1); }
  bool operator==(const ImageShape&) const = default;
};

/// The bytes of a picture in the order of the sequence, a permutation of 0 … dimensions − 1:
/// raster: rows from the top, pixels from the left, channels side by side; r_g_b: the same, one channel after
/// the other; random: a permutation that `seed` and the number of dimensions choose. Not for `user`.
std::vector<int32_t> make_image_order(ImageOrder order, const ImageShape& shape, uint64_t seed);

/// A permutation from text: as many whole numbers as there are dimensions, between white space or commas,
/// each from 0 once. Throws `user` with `source` and the line of the first that is wrong.
std::vector<int32_t> parse_image_order(std::string_view text, const ImageShape& shape,
                                       const std::string& source);

/// Ids of a picture of that shape, without SOS.
std::vector<int32_t> encode_image(const Image& image, const ImageShape& shape,
                                  std::span<const int32_t> order);

/// A picture from ids in that order, as a model made them: ids below 3 are left out; what is missing at the
/// end stays grey (128). Throws `user` for an id outside the vocabulary or of another channel than its
/// place's.
Image decode_image(std::span<const int32_t> ids, const ImageShape& shape, std::span<const int32_t> order);

/// Positions of SOS and of all ids, [1 + dimensions, 3]: SOS (1, 1, 1), a byte (x + 2, y + 2, channel + 2).
std::vector<int32_t> image_positions(const ImageShape& shape, std::span<const int32_t> order);

/// The order that such positions (those of SOS left out), [n, 3], stand for; n may be less than the
/// dimensions. Throws `user` if one is outside the picture.
std::vector<int32_t> order_of_positions(std::span<const int32_t> positions, const ImageShape& shape);

/// The ids that may stand at each place of the order; empty if all have the same.
SamplingMask image_mask(const ImageShape& shape, std::span<const int32_t> order);

/// An order for completing a picture: the known bytes first, then the others as in `order`. A model predicts
/// the byte that follows the last one in `order`; so the known byte before the first unknown one comes last
/// among the known. The other gaps in what is known cannot be helped this way, and cost the model a wrong
/// guess where each begins. `known`: [dimensions], by byte. Sets `known_count`.
std::vector<int32_t> completion_order(std::span<const int32_t> order, const std::vector<bool>& known,
                                      int64_t& known_count);

}  // namespace perceiver
