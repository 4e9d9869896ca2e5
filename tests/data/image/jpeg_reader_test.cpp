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

TEST(JpegReader, CutShortItIsReadOnlyWithAllItsPixels) {
  for (const bool progressive : {false, true}) {
    const std::string whole = make_jpeg({.progressive = progressive, .samples = counting_samples(192)});
    for (size_t size = 0; size + 2 < whole.size(); ++size)
      EXPECT_THAT(image_refusal(whole.substr(0, size)), HasSubstr("test.png: byte ")) << size;
    for (size_t size = whole.size() - 2; size < whole.size(); ++size) {  // within the end marker
      const std::string cut = whole.substr(0, size);
      EXPECT_EQ(read_test_image(cut), read_test_image(whole));
      EXPECT_THAT(image_repairs(cut), ElementsAre(HasSubstr("ends before its end marker")));
      EXPECT_THAT(strict_image_refusal(cut), HasSubstr("ends before its end marker"));
    }
  }
}

/// Both are complete scans, which libjpeg decodes without a warning.
TEST(JpegReader, WithoutItsLastScansItIsRefused) {
  const std::string whole = make_jpeg({.progressive = true, .samples = counting_samples(192)});
  const size_t last = whole.rfind("\xFF\xDA");
  EXPECT_THAT(image_refusal(whole.substr(0, last)), HasSubstr("the file is truncated"));
  EXPECT_THAT(image_repairs(whole.substr(0, last) + "\xFF\xD9"), IsEmpty());  // says that it is complete
}

TEST(JpegReader, StrayBytesAreReported) {
  const std::string whole = make_jpeg({.samples = counting_samples(192)});
  const Image image = read_test_image(whole);
  const auto with = [&](size_t place, const std::string& stray) {
    std::string file = whole;
    return file.insert(place, stray);
  };
  for (const size_t place : {whole.find("\xFF\xDB"), whole.find("\xFF\xDA"), whole.size() - 2}) {
    const std::string file = with(place, std::string("\x00\x12\xFF\x00\x34", 5));
    EXPECT_EQ(read_test_image(file), image);
    EXPECT_THAT(image_repairs(file), ElementsAre(HasSubstr("extraneous bytes before marker")));
    EXPECT_THAT(strict_image_refusal(file), HasSubstr("extraneous bytes"));
  }
  EXPECT_THAT(image_repairs(whole + "anything"), IsEmpty());  // phones put further pictures there
}

TEST(JpegReader, StrayMarkersAfterTheRowsAreReported) {
  std::string file = make_jpeg({.samples = counting_samples(192)});
  const Image image = read_test_image(file);
  file.insert(file.size() - 2, "\xFF\x02");  // a reserved marker
  EXPECT_EQ(read_test_image(file), image);
  EXPECT_THAT(image_repairs(file), ElementsAre(HasSubstr("JPEG, after the last row: ")));
}

TEST(JpegReader, StrayRestartMarkersInTheScanAreRemoved) {
  const std::string whole = make_jpeg({.width = 40, .height = 24, .samples = counting_samples(40 * 24 * 3)});
  const Image image = read_test_image(whole);
  const size_t scan = whole.find("\xFF\xDA") + 14;
  for (size_t place = scan; place + 2 < whole.size(); place += 7) {
    if (whole[place - 1] == '\xFF') continue;
    std::string file = whole;
    file.insert(place, "\xFF\xD3");
    EXPECT_EQ(read_test_image(file), image) << place;
    EXPECT_THAT(image_repairs(file), ElementsAre("JPEG: stray restart markers were removed"));
    EXPECT_THAT(strict_image_refusal(file), HasSubstr("stray restart markers"));
  }
}

TEST(JpegReader, RefusesMoreScansThanAllowed) {
  const std::string file = make_jpeg({.progressive = true, .samples = counting_samples(192)});
  EXPECT_THAT(image_refusal(file, {.progressive_scans = 3}), HasSubstr("more than 3 scans"));
  EXPECT_EQ(read_test_image(file).width, 8);
}

}  // namespace
}  // namespace perceiver
