#include "data/image/image_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "base/random.h"
#include "data/image/png_writer.h"
#include "perceiver/error.h"
#include "tests/support/image_bytes.h"

namespace perceiver {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Image read(const std::string& file, Background background = Background::white,
           const ImageLimits& limits = {}) {
  return read_image(std::as_bytes(std::span(file)), "test.png", background, limits);
}

std::string refusal(const std::string& file, const ImageLimits& limits = {}) {
  try {
    read(file, Background::white, limits);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::user);
    return error.what();
  }
  return "read without an error";
}

std::vector<uint8_t> counting(size_t count) {
  std::vector<uint8_t> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<uint8_t>(37 * i + 11);
  return values;
}

TEST(PngReader, ReadsRgbAndGrey) {
  const std::vector<uint8_t> bytes = counting(5 * 3 * 3);
  const Image colour = read(make_png({.width = 5, .height = 3, .rows = bytes}));
  EXPECT_EQ(colour.channels, 3);
  EXPECT_EQ(colour.width, 5);
  EXPECT_EQ(colour.height, 3);
  EXPECT_EQ(colour.pixels, bytes);
  const Image grey = read(make_png({.width = 15, .height = 3, .colour = PNG_COLOR_TYPE_GRAY, .rows = bytes}));
  EXPECT_EQ(grey.channels, 1);
  EXPECT_EQ(grey.pixels, bytes);
}

TEST(PngReader, InterlacedRowsComeOutTheSame) {
  const std::vector<uint8_t> bytes = counting(19 * 13 * 3);
  EXPECT_EQ(
      read(make_png({.width = 19, .height = 13, .interlace = PNG_INTERLACE_ADAM7, .rows = bytes})).pixels,
      bytes);
}

TEST(PngReader, SmallDepthsFillTheByte) {
  const auto grey = [](int depth, uint8_t packed, uint32_t width) {
    return read(make_png({.width = width, .depth = depth, .colour = PNG_COLOR_TYPE_GRAY, .rows = {packed}}))
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
        read(make_png({.depth = 16, .colour = PNG_COLOR_TYPE_GRAY, .rows = row})).pixels.at(0));
  };
  for (uint32_t value = 0; value < 65536; value += 97)
    EXPECT_EQ(eight(value), std::lround(value / 257.0)) << value;
  EXPECT_EQ(eight(65535), 255);
  const std::vector<uint8_t> row = {0x80, 0, 0xFF, 0xFF, 0, 0, 0xFF, 0xFF};
  EXPECT_THAT(read(make_png({.depth = 16, .colour = PNG_COLOR_TYPE_RGB_ALPHA, .rows = row})).pixels,
              ElementsAre(128, 255, 0));
}

TEST(PngReader, PalettesAreLookedUp) {
  PngContent content{.width = 4, .depth = 2, .colour = PNG_COLOR_TYPE_PALETTE, .rows = {0b00011011}};
  content.palette = {{1, 2, 3}, {40, 50, 60}, {200, 100, 0}, {255, 255, 255}};
  EXPECT_THAT(read(make_png(content)).pixels, ElementsAre(1, 2, 3, 40, 50, 60, 200, 100, 0, 255, 255, 255));
  content.palette_alpha = {255, 0, 128};
  EXPECT_THAT(read(make_png(content), Background::black).pixels,
              ElementsAre(1, 2, 3, 0, 0, 0, 100, 50, 0, 255, 255, 255));
}

TEST(PngReader, AlphaIsBlendedWithTheBackground) {
  const PngContent content{.width = 3,
                           .colour = PNG_COLOR_TYPE_RGB_ALPHA,
                           .rows = {100, 200, 0, 255, 100, 200, 0, 0, 100, 200, 0, 51}};
  EXPECT_THAT(read(make_png(content)).pixels, ElementsAre(100, 200, 0, 255, 255, 255, 224, 244, 204));
  EXPECT_THAT(read(make_png(content), Background::black).pixels,
              ElementsAre(100, 200, 0, 0, 0, 0, 20, 40, 0));
  const PngContent grey{.width = 2, .colour = PNG_COLOR_TYPE_GRAY_ALPHA, .rows = {100, 255, 100, 51}};
  const Image blended = read(make_png(grey));
  EXPECT_EQ(blended.channels, 1);
  EXPECT_THAT(blended.pixels, ElementsAre(100, 224));
}

TEST(PngReader, ATransparentColourIsTheBackground) {
  PngContent content{.width = 2, .colour = PNG_COLOR_TYPE_GRAY, .rows = {7, 8}};
  content.has_key = true;
  content.key.gray = 7;
  EXPECT_THAT(read(make_png(content)).pixels, ElementsAre(255, 8));
  EXPECT_THAT(read(make_png(content), Background::black).pixels, ElementsAre(0, 8));
}

TEST(PngReader, CutShortAnywhereItIsRefused) {
  const std::string whole = make_png({.width = 9, .height = 4, .rows = counting(9 * 4 * 3)});
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_THAT(refusal(whole.substr(0, size)), HasSubstr("test.png: byte ")) << size;
}

TEST(PngReader, RefusesDamage) {
  std::string file = make_png({.width = 9, .height = 4, .rows = counting(9 * 4 * 3)});
  file[45] = static_cast<char>(file[45] ^ 0x10);  // within the compressed rows: the checksum tells
  EXPECT_THAT(refusal(file), HasSubstr("damaged PNG"));
}

TEST(ImageReader, RefusesWhatIsNeither) {
  EXPECT_THAT(refusal("GIF89a"), HasSubstr("neither PNG nor JPEG"));
  EXPECT_THAT(refusal(""), HasSubstr("neither PNG nor JPEG"));
}

TEST(ImageReader, RefusesPicturesBeyondItsLimits) {
  const std::string png = make_png({.width = 20, .height = 10, .rows = counting(600)});
  EXPECT_THAT(refusal(png, {.pixels = 199}), HasSubstr("20 x 10 pixels are too many"));
  EXPECT_EQ(read(png, Background::white, {.pixels = 200}).width, 20);
  EXPECT_THAT(refusal(png, {.side = 19}), HasSubstr("test.png: "));
  const std::string jpeg = make_jpeg({.width = 20, .height = 10, .samples = counting(600)});
  EXPECT_THAT(refusal(jpeg, {.pixels = 199}), HasSubstr("20 x 10 pixels are too many"));
}

/// A header that promises 60000 × 60000 pixels in some dozen bytes.
TEST(ImageReader, RefusesALyingHeaderBeforeAllocating) {
  std::string jpeg = make_jpeg({.samples = counting(192)});
  const size_t frame = jpeg.find("\xFF\xC0");
  ASSERT_NE(frame, std::string::npos);
  jpeg.replace(frame + 5, 4, "\xEA\x60\xEA\x60");
  EXPECT_THAT(refusal(jpeg), HasSubstr("60000 x 60000 pixels are too many"));
}

double mean_error(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  EXPECT_EQ(a.size(), b.size());
  double sum = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) sum += std::abs(a[i] - b[i]);
  return sum / static_cast<double>(a.size());
}

/// Slowly changing samples, which a JPEG keeps nearly as they are.
std::vector<uint8_t> smooth(int width, int height, int components) {
  std::vector<uint8_t> samples;
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < components; ++c)
        samples.push_back(static_cast<uint8_t>(40 + 3 * x + 2 * y + 30 * c));
  return samples;
}

TEST(JpegReader, ReadsColourGreyAndProgressive) {
  const std::vector<uint8_t> samples = smooth(20, 13, 3);
  for (const bool progressive : {false, true}) {
    const Image image =
        read(make_jpeg({.width = 20, .height = 13, .progressive = progressive, .samples = samples}));
    EXPECT_EQ(image.channels, 3);
    EXPECT_EQ(image.width, 20);
    EXPECT_LT(mean_error(image.pixels, samples), 1.5);
  }
  const std::vector<uint8_t> grey = smooth(20, 13, 1);
  const Image image = read(make_jpeg({.width = 20,
                                      .height = 13,
                                      .components = 1,
                                      .given = JCS_GRAYSCALE,
                                      .stored = JCS_GRAYSCALE,
                                      .samples = grey}));
  EXPECT_EQ(image.channels, 1);
  EXPECT_LT(mean_error(image.pixels, grey), 1.5);
}

TEST(JpegReader, ReadsRgbStoredAsSuch) {
  const std::vector<uint8_t> samples = smooth(16, 16, 3);
  const Image image = read(make_jpeg({.width = 16, .height = 16, .stored = JCS_RGB, .samples = samples}));
  EXPECT_LT(mean_error(image.pixels, samples), 1.5);
}

TEST(JpegReader, InksBecomeLight) {
  const std::vector<uint8_t> inks = smooth(16, 16, 4);
  const auto light = [&](bool inverted) {
    std::vector<uint8_t> rgb;
    for (size_t i = 0; i < inks.size(); ++i) {
      const auto value = [&](size_t k) { return inverted ? inks[k] : 255 - inks[k]; };
      if (i % 4 != 3)
        rgb.push_back(static_cast<uint8_t>(std::lround(value(i) * value(i / 4 * 4 + 3) / 255.0)));
    }
    return rgb;
  };
  JpegContent content{
      .width = 16, .height = 16, .components = 4, .given = JCS_CMYK, .stored = JCS_CMYK, .samples = inks};
  const Image adobe = read(make_jpeg(content));
  EXPECT_EQ(adobe.channels, 3);
  EXPECT_LT(mean_error(adobe.pixels, light(true)), 1.5);
  content.stored = JCS_YCCK;
  EXPECT_LT(mean_error(read(make_jpeg(content)).pixels, light(true)), 1.5);
  content.stored = JCS_CMYK;
  content.adobe_marker = false;
  EXPECT_LT(mean_error(read(make_jpeg(content)).pixels, light(false)), 1.5);
}

TEST(JpegReader, CutShortAnywhereItIsRefused) {
  for (const bool progressive : {false, true}) {
    const std::string whole = make_jpeg({.progressive = progressive, .samples = counting(192)});
    for (size_t size = 0; size < whole.size(); ++size)
      EXPECT_THAT(refusal(whole.substr(0, size)), HasSubstr("test.png: byte ")) << size;
  }
}

TEST(JpegReader, RefusesMoreScansThanAllowed) {
  const std::string file = make_jpeg({.progressive = true, .samples = counting(192)});
  EXPECT_THAT(refusal(file, {.progressive_scans = 3}), HasSubstr("more than 3 scans"));
  EXPECT_EQ(read(file).width, 8);
}

TEST(ImageReader, AnyDamageIsRefusedOrRead) {
  const std::string files[] = {
      make_png({.width = 9, .height = 4, .interlace = PNG_INTERLACE_ADAM7, .rows = counting(9 * 4 * 3)}),
      make_jpeg({.samples = counting(192)}), make_jpeg({.progressive = true, .samples = counting(192)})};
  RandomStream random(1, RandomPurpose::batch);
  const ImageLimits limits{.pixels = 1 << 16};
  for (int round = 0; round < 3000; ++round) {
    std::string damaged = files[round % 3];
    for (int i = 0; i < 3; ++i) damaged[random.below(damaged.size())] = static_cast<char>(random.next());
    try {
      const Image image = read(damaged, Background::white, limits);
      ASSERT_EQ(static_cast<int64_t>(image.pixels.size()), image.width * image.height * image.channels);
    } catch (const Error& error) {
      ASSERT_EQ(error.kind(), ErrorKind::user) << error.what();
    }
  }
}

TEST(PngWriter, WritesWhatIsReadAgain) {
  for (const int64_t channels : {1, 3}) {
    Image image(7, 5, channels);
    std::iota(image.pixels.begin(), image.pixels.end(), uint8_t{3});
    EXPECT_EQ(read(write_png(image)), image);
  }
}

TEST(ImageGrid, PlacesPicturesInRows) {
  std::vector<Image> images;
  for (uint8_t i = 0; i < 5; ++i) {
    images.emplace_back(2, 1, 1);
    images.back().pixels = {i, static_cast<uint8_t>(10 + i)};
  }
  const Image grid = image_grid(images, 1);
  EXPECT_EQ(grid.width, 8);
  EXPECT_EQ(grid.height, 3);
  EXPECT_THAT(grid.pixels, ElementsAre(0, 10, 255, 1, 11, 255, 2, 12,           //
                                       255, 255, 255, 255, 255, 255, 255, 255,  //
                                       3, 13, 255, 4, 14, 255, 255, 255));
}

TEST(ImageGrid, RefusesNothingAndDifferentSizes) {
  EXPECT_THROW(image_grid({}), Error);
  EXPECT_THROW(image_grid(std::vector<Image>{Image(2, 1, 1), Image(1, 2, 1)}), Error);
}

}  // namespace
}  // namespace perceiver
