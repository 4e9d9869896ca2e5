// How a stored picture is turned so that it stands upright: cameras store what the sensor saw and note how it
// was held.
#pragma once

#include <cstdint>
#include <string_view>

#include "perceiver/media.h"

namespace perceiver {

/// The values of the EXIF tag Orientation, 1 to 8, named by what makes the stored picture upright
/// (clockwise).
enum class Orientation : uint8_t {
  upright = 1,
  mirror,  ///< left to right
  rotate_180,
  flip,       ///< top to bottom
  transpose,  ///< rows become columns
  rotate_90,
  anti_transpose,  ///< transpose, then rotate by 180 degrees
  rotate_270,
};

/// What makes the stored picture upright, e.g. "turned by 90 degrees clockwise"; "upright" if nothing has to.
std::string_view orientation_name(Orientation orientation);

/// A rectangle of pixels.
struct Region {
  int64_t left = 0, top = 0, width = 0, height = 0;
  bool operator==(const Region&) const = default;
};

/// Whether rows of the stored picture are columns of the upright one.
bool swaps_sides(Orientation orientation);

/// The part of a stored picture of that size which is `part` of the upright one.
Region stored_region(const Region& part, Orientation orientation, int64_t stored_width,
                     int64_t stored_height);

/// The upright picture.
Image upright(Image stored, Orientation orientation);

}  // namespace perceiver
