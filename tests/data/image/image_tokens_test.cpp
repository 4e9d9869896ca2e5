#include "data/image/image_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "perceiver/error.h"
#include "perceiver/experimental/random.h"

namespace perceiver {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const ImageShape tiny{2, 2, 3, false};  // bytes 0 … 11

Image counting_image(const ImageShape& shape) {
  Image image(shape.width, shape.height, shape.channels);
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = static_cast<uint8_t>(7 * i + 100);
  return image;
}

bool is_permutation_of_all(std::vector<int32_t> order) {
  std::sort(order.begin(), order.end());
  for (size_t i = 0; i < order.size(); ++i)
    if (order[i] != static_cast<int32_t>(i)) return false;
  return true;
}

TEST(ImageOrder, RasterAndChannelPlanes) {
  EXPECT_THAT(make_image_order(ImageOrder::raster, tiny, 0),
              ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11));
  EXPECT_THAT(make_image_order(ImageOrder::r_g_b, tiny, 0),
              ElementsAre(0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11));
}

TEST(ImageOrder, RandomIsAPermutationThatTheSeedChooses) {
  const ImageShape shape{8, 6, 3, false};
  const std::vector<int32_t> order = make_image_order(ImageOrder::random, shape, 5);
  EXPECT_TRUE(is_permutation_of_all(order));
  EXPECT_EQ(order, make_image_order(ImageOrder::random, shape, 5));
  EXPECT_NE(order, make_image_order(ImageOrder::random, shape, 6));
  EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
}

std::string order_refusal(const std::string& text) {
  try {
    parse_image_order(text, {2, 1, 1, false}, "order.txt");
  } catch (const Error& error) {
    return error.what();
  }
  return "read without an error";
}

TEST(ImageOrder, AUsersOrderIsReadOrRefused) {
  EXPECT_THAT(parse_image_order("1,\n 0\n", {2, 1, 1, false}, "order.txt"), ElementsAre(1, 0));
  EXPECT_THAT(order_refusal("0\n0"), HasSubstr("order.txt: line 2: 0 appears twice"));
  EXPECT_THAT(order_refusal("0 2"), HasSubstr("line 1: 2 is outside 0 to 1"));
  EXPECT_THAT(order_refusal("0 -1"), HasSubstr("-1 is outside"));
  EXPECT_THAT(order_refusal("0 one"), HasSubstr("'one' is not an integer"));
  EXPECT_THAT(order_refusal("0 1x"), HasSubstr("'1x' is not an integer"));
  EXPECT_THAT(order_refusal("0"), HasSubstr("an order of 1 numbers"));
}

TEST(ImageTokens, EveryOrderComesBack) {
  for (const bool own_ids : {false, true})
    for (const int64_t channels : {1, 3}) {
      const ImageShape shape{5, 4, channels, own_ids};
      const Image image = counting_image(shape);
      for (const ImageOrder kind : {ImageOrder::raster, ImageOrder::r_g_b, ImageOrder::random}) {
        const std::vector<int32_t> order = make_image_order(kind, shape, 3);
        const std::vector<int32_t> ids = encode_image(image, shape, order);
        EXPECT_EQ(ids.size(), static_cast<size_t>(shape.dimensions()));
        EXPECT_EQ(decode_image(ids, shape, order), image);
        for (const int32_t id : ids) EXPECT_TRUE(id >= 3 && id < shape.vocabulary());
      }
    }
}

TEST(ImageTokens, IdsAreBytesOrBytesOfAChannel) {
  Image image(1, 1, 3);
  image.pixels = {0, 128, 255};
  const std::vector<int32_t> raster = {0, 1, 2};
  EXPECT_THAT(encode_image(image, {1, 1, 3, false}, raster), ElementsAre(3, 131, 258));
  EXPECT_THAT(encode_image(image, {1, 1, 3, true}, raster), ElementsAre(3, 259 + 128, 515 + 255));
  EXPECT_EQ((ImageShape{64, 64, 3, false}.vocabulary()), 259);
  EXPECT_EQ((ImageShape{64, 64, 3, true}.vocabulary()), 771);
}

TEST(ImageTokens, WhatIsMissingIsGreyAndSpecialIdsAreNothing) {
  const std::vector<int32_t> order = make_image_order(ImageOrder::raster, tiny, 0);
  const Image image = decode_image(std::vector<int32_t>{2, 3, 0, 8, 1}, tiny, order);
  EXPECT_THAT(image.pixels, ElementsAre(0, 5, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128));
}

TEST(ImageTokens, ImpossibleIdsAreErrors) {
  const std::vector<int32_t> order = make_image_order(ImageOrder::raster, tiny, 0);
  EXPECT_THROW(decode_image(std::vector<int32_t>{259}, tiny, order), Error);
  EXPECT_THROW(decode_image(std::vector<int32_t>{-1}, tiny, order), Error);
  EXPECT_THROW(decode_image(std::vector<int32_t>(13, 5), tiny, order), Error);
  const ImageShape own{2, 2, 3, true};
  EXPECT_NO_THROW(decode_image(std::vector<int32_t>{3, 259, 515}, own, order));
  EXPECT_THROW(decode_image(std::vector<int32_t>{259}, own, order), Error);  // green in red's place
}

TEST(ImageTokens, PositionsAreColumnRowAndChannel) {
  const std::vector<int32_t> order = make_image_order(ImageOrder::raster, tiny, 0);
  const std::vector<int32_t> positions = image_positions(tiny, order);
  ASSERT_EQ(positions.size(), 13u * 3);
  EXPECT_THAT(std::vector<int32_t>(positions.begin(), positions.begin() + 15),
              ElementsAre(1, 1, 1, 2, 2, 2, 2, 2, 3, 2, 2, 4, 3, 2, 2));
  EXPECT_THAT(std::vector<int32_t>(positions.end() - 3, positions.end()), ElementsAre(3, 3, 4));
}

TEST(ImageTokens, PositionsTellTheOrder) {
  const ImageShape shape{5, 4, 3, false};
  const std::vector<int32_t> order = make_image_order(ImageOrder::random, shape, 1);
  const std::vector<int32_t> positions = image_positions(shape, order);
  EXPECT_EQ(order_of_positions(std::span(positions).subspan(3), shape), order);
  EXPECT_THROW(order_of_positions(std::vector<int32_t>{1, 1, 1}, shape), Error);
  EXPECT_THROW(order_of_positions(std::vector<int32_t>{7, 2, 2}, shape), Error);
}

TEST(ImageTokens, TheMaskAllowsAPlacesChannel) {
  const ImageShape own{2, 2, 3, true};
  for (const ImageOrder kind : {ImageOrder::raster, ImageOrder::r_g_b, ImageOrder::random}) {
    const std::vector<int32_t> order = make_image_order(kind, own, 1);
    const SamplingMask mask = image_mask(own, order);
    const std::vector<int32_t> ids = encode_image(counting_image(own), own, order);
    for (size_t k = 0; k < ids.size(); ++k)
      for (int32_t id = 0; id < own.vocabulary(); ++id)
        EXPECT_EQ(mask.allows(static_cast<int64_t>(k), id), id >= 3 && (id - 3) / 256 == (ids[k] - 3) / 256);
  }
  EXPECT_TRUE(image_mask(tiny, make_image_order(ImageOrder::raster, tiny, 0)).empty());
}

TEST(Completion, KnownBytesComeFirstAndTheOneBeforeTheGapLast) {
  const std::vector<int32_t> order = {5, 4, 3, 2, 1, 0};
  std::vector<bool> known(6, true);
  known[2] = known[1] = false;
  int64_t count = 0;
  EXPECT_THAT(completion_order(order, known, count), ElementsAre(5, 4, 0, 3, 2, 1));
  EXPECT_EQ(count, 4);
}

TEST(Completion, ABeginningKeepsTheOrder) {
  const std::vector<int32_t> order = make_image_order(ImageOrder::raster, tiny, 0);
  std::vector<bool> known(12, false);
  int64_t count = -1;
  EXPECT_EQ(completion_order(order, known, count), order);
  EXPECT_EQ(count, 0);
  std::fill_n(known.begin(), 6, true);
  EXPECT_EQ(completion_order(order, known, count), order);
  EXPECT_EQ(count, 6);
  std::fill(known.begin(), known.end(), true);
  EXPECT_EQ(completion_order(order, known, count), order);
  EXPECT_EQ(count, 12);
}

TEST(Completion, IsAPermutationWhateverIsKnown) {
  const ImageShape shape{5, 4, 3, false};
  RandomStream random(1, RandomPurpose::batch);
  for (int round = 0; round < 200; ++round) {
    const std::vector<int32_t> order = make_image_order(ImageOrder::random, shape, random.next());
    std::vector<bool> known(order.size());
    for (size_t i = 0; i < known.size(); ++i) known[i] = random.below(3) > 0;
    int64_t count = 0;
    const std::vector<int32_t> plan = completion_order(order, known, count);
    ASSERT_TRUE(is_permutation_of_all(plan));
    for (size_t i = 0; i < plan.size(); ++i)
      ASSERT_EQ(known[static_cast<size_t>(plan[i])], static_cast<int64_t>(i) < count);
  }
}

}  // namespace
}  // namespace perceiver
