#include "io/content_kind.h"

#include <gtest/gtest.h>

#include <string>

namespace perceiver {
namespace {

TEST(ContentKind, NamesWhatUsersMistakeForOtherFiles) {
  using namespace std::string_literals;
  EXPECT_EQ(content_kind(""), "empty");
  EXPECT_EQ(content_kind("model:\n  latents: 4\n"), "text");
  EXPECT_EQ(content_kind("日本"), "text");
  EXPECT_EQ(content_kind("日本"s.substr(0, 5)), "text") << "cut in a character";
  EXPECT_EQ(content_kind("RIFF\x10\0\0\0WAVEfmt "s), "a WAV file");
  EXPECT_EQ(content_kind("PK\x03\x04rest"), "a zip archive, as PyTorch writes them");
  EXPECT_EQ(content_kind("\xff\xfe"
                         "a\0b\0"s),
            "UTF-16 text");
  EXPECT_EQ(content_kind("\x01\0\0\0"s), "binary data");
  EXPECT_EQ(content_kind("caf\xe9 au lait, s'il vous pla\xeet"), "binary data");
}

}  // namespace
}  // namespace perceiver
