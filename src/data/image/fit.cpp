#include "data/image/fit.h"

#include <algorithm>
#include <utility>

namespace perceiver {
namespace {

/// For rows as they are stored.
AreaResizer make_resizer(const Region& stored_part, Orientation orientation, const ImageShape& shape) {
  const bool swap = swaps_sides(orientation);
  return {stored_part.width, stored_part.height, swap ? shape.height : shape.width,
          swap ? shape.width : shape.height, shape.channels};
}

}  // namespace

void CentreFit::begin(const ImageHeader& header) {
  header_ = header;
  const bool swap = swaps_sides(header.orientation);
  part_ = centre_region(swap ? header.height : header.width, swap ? header.width : header.height,
                        shape_.width, shape_.height);
  stored_part_ = stored_region(part_, header.orientation, header.width, header.height);
  resizer_ = make_resizer(stored_part_, header.orientation, shape_);
  converted_.resize(static_cast<size_t>(stored_part_.width * shape_.channels));
}

void CentreFit::row(const uint8_t* pixels) {
  const int64_t y = y_++ - stored_part_.top;
  if (y < 0 || y >= stored_part_.height) return;
  convert_channels(pixels + stored_part_.left * header_.channels, header_.channels, stored_part_.width,
                   converted_.data(), shape_.channels);
  resizer_->add(converted_.data());
}

Image CentreFit::take() const {
  return upright(resizer_->take(), header_.orientation);
}

void StoredImage::begin(const ImageHeader& header) {
  orientation_ = header.orientation;
  stored_ = Image(header.width, header.height, header.channels);
}

void StoredImage::row(const uint8_t* pixels) {
  std::copy_n(pixels, stored_.width * stored_.channels, stored_.at(0, y_++));
}

int64_t StoredImage::width() const {
  return swaps_sides(orientation_) ? stored_.height : stored_.width;
}

int64_t StoredImage::height() const {
  return swaps_sides(orientation_) ? stored_.width : stored_.height;
}

Image StoredImage::fit(const Region& part, const ImageShape& shape) const {
  const Region stored = stored_region(part, orientation_, stored_.width, stored_.height);
  AreaResizer resizer = make_resizer(stored, orientation_, shape);
  std::vector<uint8_t> converted(static_cast<size_t>(stored.width * shape.channels));
  for (int64_t y = stored.top; y < stored.top + stored.height; ++y) {
    convert_channels(stored_.at(stored.left, y), stored_.channels, stored.width, converted.data(),
                     shape.channels);
    resizer.add(converted.data());
  }
  return upright(resizer.take(), orientation_);
}

Image StoredImage::take() {
  return upright(std::move(stored_), orientation_);
}

}  // namespace perceiver
