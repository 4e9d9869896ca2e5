#include "io/content_kind.h"

#include <gmock/gmock.h>

#include <string>

namespace perceiver {
namespace {

using namespace std::string_literals;
using testing::HasSubstr;

TEST(ContentKind, NamesWhatUsersMistakeForOtherFiles) {
  EXPECT_EQ(content_kind(""), "empty");
  EXPECT_EQ(content_kind("model:\n  latents: 4\n"), "text");
  EXPECT_EQ(content_kind("日本"), "text");
  EXPECT_EQ(content_kind("日本"s.substr(0, 5)), "text") << "cut in a character";
  EXPECT_EQ(content_kind("RIFF\x10\0\0\0WAVEfmt "s), "WAV sound");
  EXPECT_EQ(content_kind("PK\x03\x04rest"), "a ZIP archive");
  EXPECT_EQ(content_kind("\xff\xfe"
                         "a\0b\0"s),
            "UTF-16 text");
  EXPECT_EQ(content_kind("\x01\0\0\0"s), "binary data");
  EXPECT_EQ(content_kind("caf\xe9 au lait, s'il vous pla\xeet"), "binary data");
}

TEST(NameContent, NamesWhatPeopleHaveInTheirFolders) {
  EXPECT_THAT(name_content("\xFF\xFEh\0i\0"s), HasSubstr("iconv -f UTF-16 -t UTF-8"));
  EXPECT_THAT(name_content("\xFE\xFF\0h\0i"s), HasSubstr("UTF-16 text"));
  EXPECT_THAT(name_content("\xFF\xFE\0\0h\0\0\0"s), HasSubstr("UTF-32 text"));
  EXPECT_THAT(name_content("h\0e\0l\0l\0o\0"s), HasSubstr("UTF-16LE"));
  EXPECT_THAT(name_content("\0h\0e\0l\0l\0o"s), HasSubstr("UTF-16BE"));
  EXPECT_THAT(name_content("\x1F\x8B\x08"s), HasSubstr("gzip"));
  EXPECT_THAT(name_content("PK\x03\x04"), HasSubstr("ZIP archive"));
  EXPECT_THAT(name_content("%PDF-1.4"), HasSubstr("pdftotext"));
  EXPECT_THAT(name_content("\xFF\xD8\xFF\xE0"), HasSubstr("JPEG"));
  EXPECT_THAT(name_content("\x89PNG\r\n\x1A\n"), HasSubstr("PNG"));
  EXPECT_THAT(name_content("MThd"), HasSubstr("data.type: music"));
  EXPECT_THAT(name_content("RIFF\1\2\3\4WAVE"), HasSubstr("WAV"));
  EXPECT_THAT(name_content("RIFF\1\2\3\4WEBP"), HasSubstr("WebP"));
}

TEST(NameContent, TextHasNoName) {
  for (const std::string& text : {""s, "R"s, "RIFF"s, "hello"s, "\0"s, "a\0b"s, "\xE9t\xE9"s})
    EXPECT_EQ(name_content(text), "") << text;
}

}  // namespace
}  // namespace perceiver
