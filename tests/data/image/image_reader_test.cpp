#include "data/image/image_reader.h"

#include <gmock/gmock.h>

#include "perceiver/error.h"
#include "perceiver/experimental/random.h"
#include "tests/support/image_bytes.h"
#include "tests/support/read_image.h"

namespace perceiver {
namespace {

using testing::counting_samples;
using testing::image_refusal;
using testing::read_test_image;

using ::testing::HasSubstr;

TEST(ImageReader, RefusesWhatIsNeither) {
  EXPECT_THAT(image_refusal("some text"), HasSubstr("test.png: byte 0: neither PNG nor JPEG"));
  EXPECT_THAT(image_refusal(""), HasSubstr("neither PNG nor JPEG"));
}

TEST(ImageReader, RefusesPicturesBeyondItsLimits) {
  const std::string png = make_png({.width = 20, .height = 10, .rows = counting_samples(600)});
  EXPECT_THAT(image_refusal(png, {.pixels = 199}), HasSubstr("20 x 10 pixels are too many"));
  EXPECT_EQ(read_test_image(png, Background::white, {.pixels = 200}).width, 20);
  EXPECT_THAT(image_refusal(png, {.side = 19}), HasSubstr("test.png: "));
  const std::string jpeg = make_jpeg({.width = 20, .height = 10, .samples = counting_samples(600)});
  EXPECT_THAT(image_refusal(jpeg, {.pixels = 199}), HasSubstr("20 x 10 pixels are too many"));
}

TEST(ImageReader, WhatHasToBeHeldWholeHasALowerLimit) {
  const ImageLimits limits{.pixels = 200, .held_pixels = 199};
  PngContent png{.width = 20, .height = 10, .rows = counting_samples(600)};
  EXPECT_EQ(read_test_image(make_png(png), Background::white, limits).width, 20);
  png.interlace = PNG_INTERLACE_ADAM7;
  EXPECT_THAT(image_refusal(make_png(png), limits), HasSubstr("too many for an interlaced PNG"));
  JpegContent jpeg{.width = 20, .height = 10, .samples = counting_samples(600)};
  EXPECT_EQ(read_test_image(make_jpeg(jpeg), Background::white, limits).width, 20);
  jpeg.progressive = true;
  EXPECT_THAT(image_refusal(make_jpeg(jpeg), limits),
              HasSubstr("20 x 10 pixels are too many for a progressive JPEG, which may have up to 199"));
}

TEST(ImageReader, TheDefaultLimitsAreAboveAnyPhone) {
  EXPECT_NO_THROW(check_image_size(12000, 9000, "a progressive JPEG", "x", {}));
  EXPECT_NO_THROW(check_image_size(16320, 12240, nullptr, "x", {}));
}

/// A header that promises 60000 × 60000 pixels in some dozen bytes.
TEST(ImageReader, RefusesALyingHeaderBeforeAllocating) {
  std::string jpeg = make_jpeg({.samples = counting_samples(192)});
  const size_t frame = jpeg.find("\xFF\xC0");
  ASSERT_NE(frame, std::string::npos);
  jpeg.replace(frame + 5, 4, "\xEA\x60\xEA\x60");
  EXPECT_THAT(image_refusal(jpeg), HasSubstr("60000 x 60000 pixels are too many"));
}

TEST(ImageReader, AnyDamageIsRefusedOrRead) {
  const std::string files[] = {
      make_png(
          {.width = 9, .height = 4, .interlace = PNG_INTERLACE_ADAM7, .rows = counting_samples(9 * 4 * 3)}),
      make_jpeg({.samples = counting_samples(192)}),
      make_jpeg({.progressive = true, .samples = counting_samples(192)})};
  RandomStream random(1, RandomPurpose::batch);
  const ImageLimits limits{.pixels = 1 << 16};
  for (int round = 0; round < 3000; ++round) {
    std::string damaged = files[round % 3];
    for (int i = 0; i < 3; ++i) damaged[random.below(damaged.size())] = static_cast<char>(random.next());
    try {
      const Image image = read_test_image(damaged, Background::white, limits);
      ASSERT_EQ(static_cast<int64_t>(image.pixels.size()), image.width * image.height * image.channels);
    } catch (const Error& error) {
      ASSERT_EQ(error.kind(), ErrorKind::user) << error.what();
    }
  }
}

}  // namespace
}  // namespace perceiver
