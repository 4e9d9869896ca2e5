#include "data/image/image_reader.h"

#include <gmock/gmock.h>

#include <cmath>

#include "base/random.h"
#include "tests/support/image_bytes.h"
#include "tests/support/read_image.h"

namespace perceiver {
namespace {

using testing::counting_samples;
using testing::image_refusal;
using testing::read_test_image;

using ::testing::HasSubstr;

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
    const Image image = read_test_image(
        make_jpeg({.width = 20, .height = 13, .progressive = progressive, .samples = samples}));
    EXPECT_EQ(image.channels, 3);
    EXPECT_EQ(image.width, 20);
    EXPECT_LT(mean_error(image.pixels, samples), 1.5);
  }
  const std::vector<uint8_t> grey = smooth(20, 13, 1);
  const Image image = read_test_image(make_jpeg({.width = 20,
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
  const Image image =
      read_test_image(make_jpeg({.width = 16, .height = 16, .stored = JCS_RGB, .samples = samples}));
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
  const Image adobe = read_test_image(make_jpeg(content));
  EXPECT_EQ(adobe.channels, 3);
  EXPECT_LT(mean_error(adobe.pixels, light(true)), 1.5);
  content.stored = JCS_YCCK;
  EXPECT_LT(mean_error(read_test_image(make_jpeg(content)).pixels, light(true)), 1.5);
  content.stored = JCS_CMYK;
  content.adobe_marker = false;
  EXPECT_LT(mean_error(read_test_image(make_jpeg(content)).pixels, light(false)), 1.5);
}

TEST(JpegReader, CutShortAnywhereItIsRefused) {
  for (const bool progressive : {false, true}) {
    const std::string whole = make_jpeg({.progressive = progressive, .samples = counting_samples(192)});
    for (size_t size = 0; size < whole.size(); ++size)
      EXPECT_THAT(image_refusal(whole.substr(0, size)), HasSubstr("test.png: byte ")) << size;
  }
}

TEST(JpegReader, RefusesMoreScansThanAllowed) {
  const std::string file = make_jpeg({.progressive = true, .samples = counting_samples(192)});
  EXPECT_THAT(image_refusal(file, {.progressive_scans = 3}), HasSubstr("more than 3 scans"));
  EXPECT_EQ(read_test_image(file).width, 8);
}

}  // namespace
}  // namespace perceiver
