#include "data/image/orientation.h"

#include <gmock/gmock.h>

namespace perceiver {
namespace {

using ::testing::ElementsAre;

/// 0 1 2
/// 3 4 5
Image small() {
  Image image(3, 2, 1);
  image.pixels = {0, 1, 2, 3, 4, 5};
  return image;
}

std::vector<uint8_t> turned(int orientation) {
  return upright(small(), static_cast<Orientation>(orientation)).pixels;
}

TEST(Orientation, EveryValueTurnsAsItShould) {
  EXPECT_THAT(turned(1), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(turned(2), ElementsAre(2, 1, 0, 5, 4, 3));
  EXPECT_THAT(turned(3), ElementsAre(5, 4, 3, 2, 1, 0));
  EXPECT_THAT(turned(4), ElementsAre(3, 4, 5, 0, 1, 2));
  EXPECT_THAT(turned(5), ElementsAre(0, 3, 1, 4, 2, 5));
  EXPECT_THAT(turned(6), ElementsAre(3, 0, 4, 1, 5, 2));
  EXPECT_THAT(turned(7), ElementsAre(5, 2, 4, 1, 3, 0));
  EXPECT_THAT(turned(8), ElementsAre(2, 5, 1, 4, 0, 3));
  EXPECT_EQ(upright(small(), Orientation::rotate_90).width, 2);
}

TEST(Orientation, APartIsTheSameBeforeAndAfterTurning) {
  for (int value = 1; value <= 8; ++value) {
    const auto orientation = static_cast<Orientation>(value);
    const Image whole = upright(small(), orientation);
    for (int64_t y = 0; y < whole.height; ++y)
      for (int64_t x = 0; x < whole.width; ++x) {
        const Region stored = stored_region({x, y, 1, 1}, orientation, 3, 2);
        EXPECT_EQ(*small().at(stored.left, stored.top), *whole.at(x, y)) << value;
      }
    const Region all = stored_region({0, 0, whole.width, whole.height}, orientation, 3, 2);
    EXPECT_EQ(all, (Region{0, 0, 3, 2})) << value;
  }
}

TEST(Orientation, HasAName) {
  EXPECT_EQ(orientation_name(Orientation::upright), "upright");
  EXPECT_EQ(orientation_name(Orientation::rotate_270), "turned by 90 degrees anticlockwise");
}

}  // namespace
}  // namespace perceiver
