#include "data/image/resize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/random.h"

namespace perceiver {
namespace {

using ::testing::ElementsAre;

Image random_image(RandomStream& random, int64_t width, int64_t height, int64_t channels) {
  Image image(width, height, channels);
  for (uint8_t& value : image.pixels) value = static_cast<uint8_t>(random.next());
  return image;
}

/// The part of [a, a + 1) that [first, last) covers.
double covered(int64_t a, double first, double last) {
  return std::max(0.0, std::min(last, static_cast<double>(a + 1)) - std::max(first, static_cast<double>(a)));
}

double area_mean(const Image& image, int64_t width, int64_t height, int64_t x, int64_t y, int64_t c) {
  const double across = static_cast<double>(image.width) / static_cast<double>(width);
  const double down = static_cast<double>(image.height) / static_cast<double>(height);
  double sum = 0, area = 0;
  for (int64_t v = 0; v < image.height; ++v)
    for (int64_t u = 0; u < image.width; ++u) {
      const double part = covered(u, across * static_cast<double>(x), across * static_cast<double>(x + 1)) *
                          covered(v, down * static_cast<double>(y), down * static_cast<double>(y + 1));
      sum += part * image.at(u, v)[c], area += part;
    }
  return sum / area;
}

TEST(AreaResize, WholeFactorsAreMeansOfBlocks) {
  Image image(4, 2, 1);
  image.pixels = {0, 10, 100, 110, 20, 30, 120, 131};
  EXPECT_THAT(area_resize(image, 2, 1).pixels, ElementsAre(15, 115));
}

TEST(AreaResize, EveryPixelIsTheMeanOfWhatItCovers) {
  RandomStream random(1, RandomPurpose::batch);
  for (const auto& [from_w, from_h, to_w, to_h] : std::vector<std::array<int64_t, 4>>{
           {13, 7, 5, 3}, {64, 48, 32, 32}, {5, 3, 13, 7}, {1, 1, 4, 4}, {31, 17, 31, 5}, {100, 9, 7, 1}}) {
    const Image image = random_image(random, from_w, from_h, 3);
    const Image small = area_resize(image, to_w, to_h);
    ASSERT_EQ(small.width, to_w);
    ASSERT_EQ(small.height, to_h);
    for (int64_t y = 0; y < to_h; ++y)
      for (int64_t x = 0; x < to_w; ++x)
        for (int64_t c = 0; c < 3; ++c)
          ASSERT_NEAR(small.at(x, y)[c], area_mean(image, to_w, to_h, x, y, c), 0.5 + 1e-9);
  }
}

TEST(AreaResize, APlainColourStaysWhatItIs) {
  for (int value = 0; value < 256; ++value) {
    Image image(37, 23, 1);
    std::fill(image.pixels.begin(), image.pixels.end(), static_cast<uint8_t>(value));
    const Image small = area_resize(image, 8, 9);
    EXPECT_TRUE(std::all_of(small.pixels.begin(), small.pixels.end(), [&](uint8_t v) { return v == value; }));
  }
}

TEST(AreaResize, TheSameSizeIsTheSamePicture) {
  RandomStream random(2, RandomPurpose::batch);
  const Image image = random_image(random, 9, 5, 3);
  EXPECT_EQ(area_resize(image, 9, 5), image);
}

TEST(CentreCrop, KeepsTheMiddle) {
  Image image(5, 2, 1);
  image.pixels = {0, 1, 2, 3, 4, 10, 11, 12, 13, 14};
  EXPECT_THAT(centre_crop(image, 64, 64).pixels, ElementsAre(1, 2, 11, 12));
  EXPECT_EQ(centre_crop(image, 5, 2), image);
  Image tall(1, 4, 1);
  tall.pixels = {0, 1, 2, 3};
  EXPECT_THAT(centre_crop(tall, 32, 32).pixels, ElementsAre(1));
  EXPECT_THAT(centre_crop(tall, 1, 2).pixels, ElementsAre(1, 2));
}

TEST(CentreCrop, NeverExceedsThePictureAndIsAsLargeAsCanBe) {
  for (int64_t w = 1; w < 12; ++w)
    for (int64_t h = 1; h < 12; ++h) {
      const Image part = centre_crop(Image(w, h, 1), 3, 2);
      EXPECT_TRUE(part.width == w || part.height == h);
      EXPECT_LE(part.width, w);
      EXPECT_LE(part.height, h);
      EXPECT_LE(std::abs(part.width * 2 - part.height * 3), 3);
    }
}

TEST(Channels, GreyIsLumaAndBack) {
  Image image(4, 1, 3);
  image.pixels = {255, 0, 0, 0, 255, 0, 0, 0, 255, 90, 90, 90};
  const Image grey = to_channels(image, 1);
  EXPECT_THAT(grey.pixels, ElementsAre(76, 150, 29, 90));
  EXPECT_THAT(to_channels(grey, 3).pixels, ElementsAre(76, 76, 76, 150, 150, 150, 29, 29, 29, 90, 90, 90));
  EXPECT_EQ(to_channels(image, 3), image);
}

}  // namespace
}  // namespace perceiver
