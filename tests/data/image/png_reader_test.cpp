#include "data/image/image_reader.h"

#include <gmock/gmock.h>

#include <cmath>

#include "perceiver/experimental/random.h"
#include "tests/support/image_bytes.h"
#include "tests/support/read_image.h"

namespace perceiver {
namespace {

using testing::counting_samples;
using testing::image_refusal;
using testing::image_repairs;
using testing::read_test_image;
using testing::strict_image_refusal;

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(PngReader, ReadsRgbAndGrey) {
  const std::vector<uint8_t> bytes = counting_samples(5 * 3 * 3);
  const Image colour = read_test_image(make_png({.width = 5, .height = 3, .rows = bytes}));
  EXPECT_EQ(colour.channels, 3);
  EXPECT_EQ(colour.width, 5);
  EXPECT_EQ(colour.height, 3);
  EXPECT_EQ(colour.pixels, bytes);
  const Image grey =
      read_test_image(make_png({.width = 15, .height = 3, .colour = PNG_COLOR_TYPE_GRAY, .rows = bytes}));
  EXPECT_EQ(grey.channels, 1);
  EXPECT_EQ(grey.pixels, bytes);
}

TEST(PngReader, InterlacedRowsComeOutTheSame) {
  const std::vector<uint8_t> bytes = counting_samples(19 * 13 * 3);
  EXPECT_EQ(
      read_test_image(make_png({.width = 19, .height = 13, .interlace = PNG_INTERLACE_ADAM7, .rows = bytes}))
          .pixels,
      bytes);
}

TEST(PngReader, SmallDepthsFillTheByte) {
  const auto grey = [](int depth, uint8_t packed, uint32_t width) {
    return read_test_image(
               make_png({.width = width, .depth = depth, .colour = PNG_COLOR_TYPE_GRAY, .rows = {packed}}))
        .pixels;
  };
  EXPECT_THAT(grey(1, 0b10110000, 4), ElementsAre(255, 0, 255, 255));
  EXPECT_THAT(grey(2, 0b00011011, 4), ElementsAre(0, 85, 170, 255));
  EXPECT_THAT(grey(4, 0x3F, 2), ElementsAre(51, 255));
}

TEST(PngReader, SixteenBitsAreRounded) {
  const auto eight = [](uint32_t value) {
    const std::vector<uint8_t> row = {static_cast<uint8_t>(value >> 8), static_cast<uint8_t>(value)};
    return static_cast<int>(
        read_test_image(make_png({.depth = 16, .colour = PNG_COLOR_TYPE_GRAY, .rows = row})).pixels.at(0));
  };
  for (uint32_t value = 0; value < 65536; value += 97)
    EXPECT_EQ(eight(value), std::lround(value / 257.0)) << value;
  EXPECT_EQ(eight(65535), 255);
  const std::vector<uint8_t> row = {0x80, 0, 0xFF, 0xFF, 0, 0, 0xFF, 0xFF};
  EXPECT_THAT(
      read_test_image(make_png({.depth = 16, .colour = PNG_COLOR_TYPE_RGB_ALPHA, .rows = row})).pixels,
      ElementsAre(128, 255, 0));
}

TEST(PngReader, PalettesAreLookedUp) {
  PngContent content{.width = 4, .depth = 2, .colour = PNG_COLOR_TYPE_PALETTE, .rows = {0b00011011}};
  content.palette = {{1, 2, 3}, {40, 50, 60}, {200, 100, 0}, {255, 255, 255}};
  EXPECT_THAT(read_test_image(make_png(content)).pixels,
              ElementsAre(1, 2, 3, 40, 50, 60, 200, 100, 0, 255, 255, 255));
  content.palette_alpha = {255, 0, 128};
  EXPECT_THAT(read_test_image(make_png(content), Background::black).pixels,
              ElementsAre(1, 2, 3, 0, 0, 0, 100, 50, 0, 255, 255, 255));
}

TEST(PngReader, AlphaIsBlendedWithTheBackground) {
  const PngContent content{.width = 3,
                           .colour = PNG_COLOR_TYPE_RGB_ALPHA,
                           .rows = {100, 200, 0, 255, 100, 200, 0, 0, 100, 200, 0, 51}};
  EXPECT_THAT(read_test_image(make_png(content)).pixels,
              ElementsAre(100, 200, 0, 255, 255, 255, 224, 244, 204));
  EXPECT_THAT(read_test_image(make_png(content), Background::black).pixels,
              ElementsAre(100, 200, 0, 0, 0, 0, 20, 40, 0));
  const PngContent grey{.width = 2, .colour = PNG_COLOR_TYPE_GRAY_ALPHA, .rows = {100, 255, 100, 51}};
  const Image blended = read_test_image(make_png(grey));
  EXPECT_EQ(blended.channels, 1);
  EXPECT_THAT(blended.pixels, ElementsAre(100, 224));
}

TEST(PngReader, ATransparentColourIsTheBackground) {
  PngContent content{.width = 2, .colour = PNG_COLOR_TYPE_GRAY, .rows = {7, 8}};
  content.has_key = true;
  content.key.gray = 7;
  EXPECT_THAT(read_test_image(make_png(content)).pixels, ElementsAre(255, 8));
  EXPECT_THAT(read_test_image(make_png(content), Background::black).pixels, ElementsAre(0, 8));
}

/// How many bytes of the file there must be for all its pixels: up to the checksum of the compressed stream.
TEST(PngReader, CutShortItIsReadOnlyWithAllItsPixels) {
  for (const int interlace : {PNG_INTERLACE_NONE, PNG_INTERLACE_ADAM7})
    for (const uint32_t height : {1u, 4u, 5u}) {
      const std::vector<uint8_t> rows = counting_samples(9 * height * 3);
      const std::string whole =
          make_png({.width = 9, .height = height, .interlace = interlace, .rows = rows});
      const size_t tail = 12 + 4 + 4;  // IEND, the checksums of the chunk and of the stream
      for (size_t size = 0; size + tail < whole.size(); ++size)
        EXPECT_THAT(image_refusal(whole.substr(0, size)), HasSubstr("test.png: byte ")) << size;
      for (size_t size = whole.size() - 12; size < whole.size(); ++size) {
        const std::string cut = whole.substr(0, size);
        EXPECT_EQ(read_test_image(cut).pixels, rows) << size;
        EXPECT_THAT(image_repairs(cut), ElementsAre("PNG, after the last row: the file is truncated"));
        EXPECT_THAT(strict_image_refusal(cut), HasSubstr("test.png: PNG, after the last row: "));
      }
      EXPECT_THAT(image_repairs(whole), IsEmpty());
    }
}

TEST(PngReader, DamageAfterThePixelsIsReported) {
  std::string file = make_png({.width = 9, .height = 4, .rows = counting_samples(9 * 4 * 3)});
  const Image image = read_test_image(file);
  file[file.size() - 1] = static_cast<char>(~file[file.size() - 1]);  // the checksum of IEND
  EXPECT_EQ(read_test_image(file), image);
  EXPECT_THAT(image_repairs(file), ElementsAre(HasSubstr("PNG, after the last row: IEND: CRC error")));
}

TEST(PngReader, RefusesDamage) {
  std::string file = make_png({.width = 9, .height = 4, .rows = counting_samples(9 * 4 * 3)});
  file[45] = static_cast<char>(file[45] ^ 0x10);  // within the compressed rows: the checksum tells
  EXPECT_THAT(image_refusal(file), HasSubstr("damaged PNG"));
}

}  // namespace
}  // namespace perceiver
