#include "data/image/resize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "perceiver/experimental/random.h"

namespace perceiver {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

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

TEST(AreaResizer, RowsMayBePartOfSeveralNewRows) {
  AreaResizer resizer(1, 2, 1, 5, 1);
  for (const uint8_t value : {uint8_t{0}, uint8_t{100}}) resizer.add(&value);
  EXPECT_THAT(resizer.take().pixels, ElementsAre(0, 0, 50, 100, 100));
}

TEST(CentreRegion, KeepsTheMiddle) {
  EXPECT_EQ(centre_region(5, 2, 64, 64), (Region{1, 0, 2, 2}));
  EXPECT_EQ(centre_region(5, 2, 5, 2), (Region{0, 0, 5, 2}));
  EXPECT_EQ(centre_region(1, 4, 32, 32), (Region{0, 1, 1, 1}));
  EXPECT_EQ(centre_region(1, 4, 1, 2), (Region{0, 1, 1, 2}));
}

TEST(CentreRegion, NeverExceedsThePictureAndIsAsLargeAsCanBe) {
  for (int64_t w = 1; w < 12; ++w)
    for (int64_t h = 1; h < 12; ++h) {
      const Region part = centre_region(w, h, 3, 2);
      EXPECT_TRUE(part.width == w || part.height == h);
      EXPECT_LE(part.left + part.width, w);
      EXPECT_LE(part.top + part.height, h);
      EXPECT_LE(std::abs(part.width * 2 - part.height * 3), 3);
    }
}

TEST(Channels, GreyIsLumaAndBack) {
  const uint8_t colours[] = {255, 0, 0, 0, 255, 0, 0, 0, 255, 90, 90, 90};
  std::vector<uint8_t> grey(4), back(12), same(12);
  convert_channels(colours, 3, 4, grey.data(), 1);
  EXPECT_THAT(grey, ElementsAre(76, 150, 29, 90));
  convert_channels(grey.data(), 1, 4, back.data(), 3);
  EXPECT_THAT(back, ElementsAre(76, 76, 76, 150, 150, 150, 29, 29, 29, 90, 90, 90));
  convert_channels(colours, 3, 4, same.data(), 3);
  EXPECT_THAT(same, ElementsAreArray(colours));
}

}  // namespace
}  // namespace perceiver
