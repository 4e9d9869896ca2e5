#include "data/image/png_writer.h"

#include <gmock/gmock.h>

#include <numeric>

#include "perceiver/error.h"
#include "perceiver/experimental/random.h"
#include "tests/support/image_bytes.h"
#include "tests/support/read_image.h"

namespace perceiver {
namespace {

using testing::read_test_image;

using ::testing::ElementsAre;

TEST(PngWriter, WritesWhatIsReadAgain) {
  for (const int64_t channels : {1, 3}) {
    Image image(7, 5, channels);
    std::iota(image.pixels.begin(), image.pixels.end(), uint8_t{3});
    EXPECT_EQ(read_test_image(write_png(image)), image);
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
