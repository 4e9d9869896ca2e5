#include "data/image/image_format.h"

#include <gmock/gmock.h>

#include "data/modality.h"

namespace perceiver {
namespace {

using std::string_literals::operator""s;
using ::testing::HasSubstr;

std::span<const std::byte> bytes(const std::string& file) {
  return std::as_bytes(std::span(file));
}

std::string described(const std::string& file) {
  EXPECT_EQ(image_format(bytes(file)), ImageFormat::other);
  return describe_other_image(bytes(file));
}

TEST(ImageFormat, IsToldByTheFirstBytes) {
  EXPECT_EQ(image_format(bytes("\x89PNG\r\n\x1A\n")), ImageFormat::png);
  EXPECT_EQ(image_format(bytes("\xFF\xD8\xFF\xDB")), ImageFormat::jpeg);
}

TEST(ImageFormat, OthersAreNamedWithTheCommandThatConvertsThem) {
  EXPECT_EQ(described("RIFF\x10\0\0\0WEBPVP8 "s),
            "is a WebP picture; only PNG and JPEG are read, so convert it: dwebp in.webp -o out.png");
  EXPECT_THAT(described("GIF89a"), HasSubstr("is a GIF; "));
  EXPECT_THAT(described("BM\0\0"s), HasSubstr("is a BMP; "));
  EXPECT_THAT(described("II*\0"s), HasSubstr("magick in.tif out.png"));
  EXPECT_THAT(described("\0\0\0\x18"
                        "ftypheic"s),
              HasSubstr("HEIC picture; "));
  EXPECT_THAT(described("\0\0\0\x18"
                        "ftypmif1"s),
              HasSubstr("heif-convert in.heif out.png"));
  EXPECT_THAT(described("\0\0\0\x18"
                        "ftypavif"s),
              HasSubstr("AVIF"));
  EXPECT_THAT(described("\0\0\0\x18"
                        "ftypisom"s),
              HasSubstr("a video"));
  EXPECT_THAT(described("\xFF\x0A"), HasSubstr("JPEG XL"));
  EXPECT_THAT(described("\0\0\0\x0CJXL \r\n\x87\n"s), HasSubstr("djxl in.jxl out.png"));
  EXPECT_THAT(described("<?xml version='1.0'?>\n<svg>"), HasSubstr("SVG"));
  EXPECT_THAT(described("\xEF\xBB\xBF<!DOCTYPE html><HTML>"), HasSubstr("is a web page; "));
  EXPECT_THAT(described("\x1F\x8B"), HasSubstr("is a gzip file; only PNG and JPEG pictures are read"));
}

TEST(ImageFormat, UnknownOnesAreNotGuessed) {
  EXPECT_THAT(described(""), HasSubstr("neither PNG nor JPEG"));
  EXPECT_THAT(described("see the <svg> element"), HasSubstr("neither PNG nor JPEG"));
}

TEST(ImageFormat, FilesNamedAsOtherPicturesAreTakenToBeNamed) {
  const ModalityKind& kind = find_modality("image");
  for (const char* name : {"a.jfif", "a.JPE", "a.Jpg", "a.webp", "a.HEIC", "a.svg"})
    EXPECT_TRUE(kind.takes(name));
  EXPECT_FALSE(kind.takes("a.txt"));
}

}  // namespace
}  // namespace perceiver
