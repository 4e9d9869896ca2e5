// Any input is either refused with a perceiver::Error or is an image that can be cropped, scaled down and
// written as PNG. The limits are low to avoid spending all the time on large images.
#include <zlib.h>

#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>
#include <vector>

#include "data/image/fit.h"
#include "data/image/image_reader.h"
#include "data/image/png_writer.h"
#include "data/image/resize.h"
#include "perceiver/error.h"

namespace {

using perceiver::Background;
using perceiver::Image;

constexpr perceiver::ImageLimits kLimits{
    .side = 4096, .pixels = 1 << 14, .held_pixels = 1 << 14, .progressive_scans = 20};

const perceiver::ImageShape kShape{.width = 4, .height = 3, .channels = 3};

void require(bool condition) {
  if (!condition) std::abort();
}

/// Errors must fit on one line of a terminal.
void check_message(std::string_view message) {
  for (const char c : message) require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F);
}

/// Counts the rows of an image and lets two others have them.
class CheckedRows final : public perceiver::ImageRows {
 public:
  void begin(const perceiver::ImageHeader& header) override {
    require(header.width >= 1 && header.height >= 1 && (header.channels == 1 || header.channels == 3));
    require(header.orientation >= perceiver::Orientation::upright &&
            header.orientation <= perceiver::Orientation::rotate_270);
    header_ = header;
    whole.begin(header), fit.begin(header);
  }
  void row(const uint8_t* pixels) override {
    ++rows_;
    whole.row(pixels), fit.row(pixels);
  }
  bool complete() const { return rows_ == header_.height; }

  perceiver::StoredImage whole;
  perceiver::CentreFit fit{kShape};

 private:
  perceiver::ImageHeader header_;
  int64_t rows_ = 0;
};

/// Fitted row by row, or as a whole, the image is the same.
void check(CheckedRows& rows) {
  require(rows.complete());
  const Image small = rows.fit.take();
  require(rows.whole.fit(rows.fit.part(), kShape) == small);
  const std::string written = perceiver::write_png(small);
  require(perceiver::read_image(std::as_bytes(std::span(written)), "reread", Background::white) == small);
}

void read(std::span<const uint8_t> file) {
  std::vector<std::string> repairs;
  try {
    CheckedRows rows;
    perceiver::scan_image({.path = "fuzz", .bytes = std::as_bytes(file), .repairs = &repairs},
                          {.background = Background::black, .limits = kLimits}, rows);
    check(rows);
  } catch (const perceiver::Error& error) {
    require(error.kind() == perceiver::ErrorKind::user);
    check_message(error.what());
  }
  for (const std::string& repair : repairs) check_message(repair);
}

uint32_t big_endian(const uint8_t* bytes) {
  return static_cast<uint32_t>(bytes[0] << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3]);
}

/// A PNG file with the checksum of every chunk corrected: random input almost never has a correct one.
std::vector<uint8_t> with_checksums(std::span<const uint8_t> png) {
  std::vector<uint8_t> file(png.begin(), png.end());
  for (size_t chunk = 8; chunk + 12 <= file.size();) {
    const size_t length = big_endian(&file[chunk]);
    if (length > file.size() - chunk - 12) break;
    const auto sum = crc32(0, &file[chunk + 4], static_cast<uInt>(length + 4));
    for (int i = 0; i < 4; ++i) file[chunk + 8 + length + i] = static_cast<uint8_t>(sum >> (24 - 8 * i));
    chunk += length + 12;
  }
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const uint8_t> input(data, size);
  read(input);
  if (size > 8 && data[0] == 0x89) read(with_checksums(input));
  return 0;
}
