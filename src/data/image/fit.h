// Turns, crops, converts and resizes pictures while they are decoded.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "data/image/image_reader.h"
#include "data/image/image_tokens.h"
#include "data/image/resize.h"

namespace perceiver {

/// The centre of a picture with the shape's aspect ratio, resized to the shape, upright. Takes the memory of
/// a row and of the result: the rows are cropped and resized as they are stored, and only the result is
/// turned.
class CentreFit final : public ImageRows {
 public:
  explicit CentreFit(const ImageShape& shape) : shape_(shape) {}

  void begin(const ImageHeader& header) override;
  void row(const uint8_t* pixels) override;
  /// After the last row.
  Image take() const;

  const ImageHeader& header() const { return header_; }
  /// The part that was used, of the upright picture.
  const Region& part() const { return part_; }

 private:
  ImageShape shape_;
  ImageHeader header_;
  Region part_, stored_part_;
  std::optional<AreaResizer> resizer_;
  std::vector<uint8_t> converted_;  ///< a row of the part in the shape's channels
  int64_t y_ = 0;
};

/// A whole picture, as stored, of which any part can be fitted.
class StoredImage final : public ImageRows {
 public:
  void begin(const ImageHeader& header) override;
  void row(const uint8_t* pixels) override;

  int64_t width() const;   ///< of the upright picture
  int64_t height() const;  ///< of the upright picture
  /// That part of the upright picture, resized to the shape.
  Image fit(const Region& part, const ImageShape& shape) const;
  /// The whole picture, upright; leaves this one empty.
  Image take();

 private:
  Orientation orientation_ = Orientation::upright;
  Image stored_;
  int64_t y_ = 0;
};

}  // namespace perceiver
