// Crops, resizes and converts images.
#pragma once

#include "data/image/image.h"

namespace perceiver {

/// The `width` x `height` pixels from (left, top) on, which must lie inside the image.
Image cut(const Image& image, int64_t left, int64_t top, int64_t width, int64_t height);

/// The largest centred part with the aspect ratio width : height (a half pixel goes to the left or top); its
/// sides are rounded to whole pixels, at least one.
Image centre_crop(const Image& image, int64_t width, int64_t height);

/// Area interpolation: every new pixel is the mean of the old pixels that it covers, weighted by the covered
/// area. Computed in integers and rounded once, so results are the same everywhere, and a uniform colour is
/// preserved exactly. Enlarging gives blocks with blended edges.
Image area_resize(const Image& image, int64_t width, int64_t height);

/// RGB to grey by luma, (299 R + 587 G + 114 B) / 1000 (ITU-R BT.601); grey to RGB by repetition.
Image to_channels(const Image& image, int64_t channels);

}  // namespace perceiver
