#include "data/image/exif.h"

#include <gmock/gmock.h>

#include "perceiver/experimental/random.h"
#include "tests/support/exif_bytes.h"
#include "tests/support/image_bytes.h"
#include "tests/support/read_image.h"

namespace perceiver {
namespace {

using testing::counting_samples;
using testing::exif_bytes;
using testing::image_repairs;
using testing::png_chunk;
using testing::read_test_image;
using testing::strict_image_refusal;
using testing::with_jpeg_exif;
using testing::with_png_chunk;

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

ExifOrientation parsed(const std::string& exif) {
  return exif_orientation(std::as_bytes(std::span(exif)));
}

TEST(Exif, FindsTheOrientationInEitherByteOrder) {
  for (uint32_t value = 1; value <= 8; ++value)
    for (const bool big_endian : {false, true})
      for (const uint32_t type : {1u, 3u, 4u}) {
        const ExifOrientation exif = parsed(exif_bytes(value, big_endian, type));
        EXPECT_EQ(static_cast<uint32_t>(exif.value), value);
        EXPECT_EQ(exif.damage, "");
      }
  EXPECT_EQ(parsed(std::string("Exif\0\0", 6) + exif_bytes(6)).value, Orientation::rotate_90);
  EXPECT_EQ(parsed(exif_bytes(0)).value, Orientation::upright);
  EXPECT_EQ(parsed(exif_bytes(0)).damage, "");
}

TEST(Exif, WhatIsDamagedIsUpright) {
  const auto damage = [](const std::string& exif) {
    EXPECT_EQ(parsed(exif).value, Orientation::upright);
    return parsed(exif).damage;
  };
  EXPECT_THAT(damage(""), HasSubstr("no TIFF header"));
  EXPECT_THAT(damage("II*"), HasSubstr("no TIFF header"));
  EXPECT_THAT(damage(exif_bytes(9)), HasSubstr("the orientation is 9"));
  EXPECT_THAT(damage(exif_bytes(6, false, 2)), HasSubstr("1 values of type 2"));
  EXPECT_THAT(damage(exif_bytes(6, false, 3, 5)), HasSubstr("5 values of type 3"));
  EXPECT_THAT(damage(exif_bytes(6).substr(0, 30)), HasSubstr("cut short"));
  EXPECT_THAT(damage(std::string("II*\0\xFF\xFF\xFF\xFF", 8)), HasSubstr("outside"));
}

TEST(Exif, PicturesAreTurned) {
  const std::vector<uint8_t> rows = counting_samples(4 * 2 * 3);
  const std::string png = make_png({.width = 4, .height = 2, .rows = rows});
  const Image stored = read_test_image(png);
  for (uint32_t value = 1; value <= 8; ++value) {
    const Image wanted = upright(stored, static_cast<Orientation>(value));
    for (const bool last : {false, true})
      EXPECT_EQ(read_test_image(with_png_chunk(png, png_chunk("eXIf", exif_bytes(value)), last)), wanted);
    const std::string jpeg = make_jpeg({.width = 4, .height = 2, .samples = rows});
    EXPECT_EQ(read_test_image(with_jpeg_exif(jpeg, exif_bytes(value, true))),
              upright(read_test_image(jpeg), static_cast<Orientation>(value)));
  }
}

TEST(Exif, AChunkWithAWrongChecksumIsNotBelieved) {
  const std::string png = make_png({.width = 4, .height = 2, .rows = counting_samples(24)});
  std::string chunk = png_chunk("eXIf", exif_bytes(6));
  chunk.back() = static_cast<char>(~chunk.back());
  EXPECT_EQ(read_test_image(with_png_chunk(png, chunk)), read_test_image(png));
}

TEST(Exif, DamageIsReportedAndThePictureIsRead) {
  const std::string jpeg = make_jpeg({.samples = counting_samples(192)});
  const std::string damaged = with_jpeg_exif(jpeg, "II*");
  EXPECT_EQ(read_test_image(damaged), read_test_image(jpeg));
  EXPECT_THAT(image_repairs(damaged), ElementsAre(HasSubstr("EXIF data are damaged (no TIFF header)")));
  EXPECT_THAT(image_repairs(damaged, false), IsEmpty());
  EXPECT_THAT(strict_image_refusal(damaged), HasSubstr("test.png: the EXIF data are damaged"));
  EXPECT_THAT(image_repairs(with_jpeg_exif(jpeg, exif_bytes(6))), IsEmpty());
}

TEST(Exif, AnyBytesAreReadOrDamaged) {
  RandomStream random(3, RandomPurpose::batch);
  for (int round = 0; round < 20000; ++round) {
    std::string exif = exif_bytes(6, round % 2 == 0);
    for (int i = 0; i < 2; ++i) exif[random.below(exif.size())] = static_cast<char>(random.next());
    exif.resize(random.below(exif.size() + 1));
    const ExifOrientation result = parsed(exif);
    ASSERT_GE(static_cast<int>(result.value), 1);
    ASSERT_LE(static_cast<int>(result.value), 8);
  }
}

}  // namespace
}  // namespace perceiver
