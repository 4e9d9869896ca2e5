// Crops, resizes and converts images.
#pragma once

#include <cstdint>
#include <vector>

#include "data/image/orientation.h"
#include "perceiver/media.h"

namespace perceiver {

/// The largest centred part of a picture with the aspect ratio `width` : `height` (a half pixel goes to the
/// left or top); its sides are rounded to whole pixels, at least one.
Region centre_region(int64_t picture_width, int64_t picture_height, int64_t width, int64_t height);

/// Area interpolation of rows as they arrive: every new pixel is the mean of the old pixels that it covers,
/// weighted by the covered area. Computed in integers and rounded once, so results are the same everywhere, a
/// uniform colour is preserved exactly, and turning before or after makes no difference. Enlarging gives
/// blocks with blended edges.
class AreaResizer {
 public:
  /// From `old_width` × `old_height` pixels to `width` × `height`; all at least 1.
  AreaResizer(int64_t old_width, int64_t old_height, int64_t width, int64_t height, int64_t channels);

  /// The next row from the top: [old_width, channels].
  void add(const uint8_t* row);
  /// The new image, after all rows.
  Image take() const;

 private:
  /// The old pixels that one new pixel covers along an axis: first, first + 1, … with weights that add up to
  /// the old length.
  struct Cover {
    int64_t first;
    std::vector<uint64_t> weights;
  };
  static std::vector<Cover> covers(int64_t from, int64_t to);

  int64_t old_height_, width_, height_, channels_;
  uint64_t area_;  ///< the sum of the weights of a pixel
  std::vector<Cover> columns_, rows_;
  std::vector<uint64_t> line_;  ///< [width, channels] of the current row, summed along x
  std::vector<uint64_t> sums_;  ///< [height, width, channels]
  int64_t y_ = 0;               ///< rows so far
  int64_t first_ = 0;           ///< the first new row that is not complete
};

/// A whole image resized by area.
Image area_resize(const Image& image, int64_t width, int64_t height);

/// A row of `count` pixels from one number of channels to another: RGB to grey by luma, (299 R + 587 G + 114
/// B) / 1000 (ITU-R BT.601); grey to RGB by repetition. `to` must not overlap `from`.
void convert_channels(const uint8_t* from, int64_t from_channels, int64_t count, uint8_t* to,
                      int64_t to_channels);

}  // namespace perceiver
