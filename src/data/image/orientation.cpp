#include "data/image/orientation.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace perceiver {
namespace {

/// Every orientation is a transposition or none, after the stored picture was mirrored along some axes.
bool mirrored_in_x(Orientation orientation) {
  return orientation == Orientation::mirror || orientation == Orientation::rotate_180 ||
         orientation == Orientation::anti_transpose || orientation == Orientation::rotate_270;
}

bool mirrored_in_y(Orientation orientation) {
  return orientation == Orientation::flip || orientation == Orientation::rotate_180 ||
         orientation == Orientation::anti_transpose || orientation == Orientation::rotate_90;
}

}  // namespace

std::string_view orientation_name(Orientation orientation) {
  constexpr std::string_view names[] = {"upright",
                                        "mirrored",
                                        "turned by 180 degrees",
                                        "upside down, mirrored",
                                        "mirrored along the diagonal",
                                        "turned by 90 degrees clockwise",
                                        "mirrored along the other diagonal",
                                        "turned by 90 degrees anticlockwise"};
  return names[static_cast<size_t>(orientation) - 1];
}

bool swaps_sides(Orientation orientation) {
  return orientation >= Orientation::transpose;
}

Region stored_region(const Region& part, Orientation orientation, int64_t stored_width,
                     int64_t stored_height) {
  Region stored = part;
  if (swaps_sides(orientation)) stored = {part.top, part.left, part.height, part.width};
  if (mirrored_in_x(orientation)) stored.left = stored_width - stored.left - stored.width;
  if (mirrored_in_y(orientation)) stored.top = stored_height - stored.top - stored.height;
  return stored;
}

Image upright(Image stored, Orientation orientation) {
  if (orientation == Orientation::upright) return stored;
  const bool swap = swaps_sides(orientation);
  Image out(swap ? stored.height : stored.width, swap ? stored.width : stored.height, stored.channels);
  for (int64_t y = 0; y < out.height; ++y)
    for (int64_t x = 0; x < out.width; ++x) {
      const Region from = stored_region({x, y, 1, 1}, orientation, stored.width, stored.height);
      std::copy_n(stored.at(from.left, from.top), stored.channels, out.at(x, y));
    }
  return out;
}

}  // namespace perceiver
