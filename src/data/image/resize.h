// A picture brought to a given size and colour.
#pragma once

#include "data/image/image.h"

namespace perceiver {

/// The part of `width` x `height` pixels whose first is (left, top); it must lie in the picture.
Image cut(const Image& image, int64_t left, int64_t top, int64_t width, int64_t height);

/// The largest part with the proportions width : height, in the middle (a half pixel goes to the left or
/// top); its sides are rounded to whole pixels, at least one.
Image centre_crop(const Image& image, int64_t width, int64_t height);

/// Every new pixel is the mean of what it covers of the old picture, parts of pixels counting in proportion;
/// computed in whole numbers and rounded once, so it is the same everywhere, and a plain colour stays exactly
/// what it is. Enlarging gives blocks with mixed edges.
Image area_resize(const Image& image, int64_t width, int64_t height);

/// RGB to grey by luma, (299 R + 587 G + 114 B) / 1000 (ITU-R BT.601); grey to RGB by repetition.
Image to_channels(const Image& image, int64_t channels);

}  // namespace perceiver
