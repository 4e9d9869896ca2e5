#include "data/text/text_check.h"

#include <gmock/gmock.h>

#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using namespace std::string_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::string held(const std::string& text, const TextCheck& check) {
  return text.substr(static_cast<size_t>(check.first), static_cast<size_t>(check.last - check.first));
}

TEST(TextCheck, TakesTextAsItIs) {
  for (const std::string& text :
       {"a"s, "h\xC3\xA9llo €uro 😀\r\n\t\x01"s, "0123456\xC3\xA9"s, "01234567\xC3\xA9"s}) {
    const TextCheck check = check_text(text);
    EXPECT_EQ(check.fault, "") << text;
    EXPECT_THAT(check.repairs, IsEmpty());
    EXPECT_EQ(held(text, check), text);
  }
}

TEST(TextCheck, LocatesWhatIsNotText) {
  EXPECT_THAT(check_text("caf\xE9 au lait").fault, HasSubstr("byte 3 is E9"));
  EXPECT_THAT(check_text("0123456789\xC0\x80").fault, HasSubstr("byte 10 is C0"));
  EXPECT_THAT(check_text("abc\xED\xA0\x80z").fault, HasSubstr("byte 3 is ED"));
  EXPECT_THAT(check_text("0123456789ab\0c"s).fault, HasSubstr("byte 12 is 00"));
  EXPECT_THAT(check_text("\x01\x02 binary \xE9t").fault, HasSubstr("is not text: byte 10 is E9"));
  EXPECT_THAT(check_text("").fault, HasSubstr("is empty"));
  EXPECT_THAT(check_text("\xFF\xFEh\0i\0"s).fault, HasSubstr("UTF-16"));
  EXPECT_THAT(check_text("%PDF-1.4 all ASCII").fault, HasSubstr("PDF"));
  EXPECT_THAT(check_text("BZh is how this text begins").fault, "");
}

TEST(TextCheck, LeavesOutMarksAndPartsOfCharacters) {
  const std::string marked = "\xEF\xBB\xBFtext", begun = "\x82\xACuro", cut = "euro \xE2\x82";
  EXPECT_EQ(held(marked, check_text(marked)), "text");
  EXPECT_THAT(check_text(marked).repairs, ElementsAre(HasSubstr("byte order mark")));
  EXPECT_EQ(held(begun, check_text(begun)), "uro");
  EXPECT_THAT(check_text(begun).repairs, ElementsAre(HasSubstr("with its last 2 bytes")));
  EXPECT_EQ(held(cut, check_text(cut)), "euro ");
  EXPECT_THAT(check_text(cut).repairs, ElementsAre(HasSubstr("ends within")));
  EXPECT_THAT(check_text("\xEF\xBB\xBF").fault, HasSubstr("no whole character"));
  EXPECT_THAT(check_text("\x80\x80\x80\x80z").fault, HasSubstr("byte 3 is 80"));
}

TEST(TextCheck, BytesAreNeverAtFault) {
  const std::string bytes = "\xEF\xBB\xBF\0\xFF"s;
  const TextCheck check = check_text(bytes, TextEncoding::bytes);
  EXPECT_EQ(check.fault, "");
  EXPECT_EQ(held(bytes, check), bytes);
}

std::vector<ListedFile> list(const TempFolder& folder) {
  return list_files({folder.path()}, "x");
}

// Characters across the blocks in which files are read.
TEST(TextCheck, FilesAreCheckedInBlocks) {
  for (int shift = 0; shift < 3; ++shift) {
    const TempFolder folder;
    std::string text(static_cast<size_t>((1 << 20) - 1 - shift), 'x');
    for (int i = 0; i < 400'000; ++i) text += "€";
    folder.write("good.txt", text);
    text[(1 << 20) + 300'002] = '\xFF';
    folder.write("wrong.txt", text);
    const std::vector<TextCheck> checks = check_text_files(list(folder), TextEncoding::utf8);
    EXPECT_EQ(checks[0].fault, "");
    EXPECT_EQ(checks[0].last, static_cast<int64_t>(text.size()));
    EXPECT_THAT(checks[1].fault, HasSubstr("is not UTF-8 text"));
    EXPECT_NE(checks[0].checksum, checks[1].checksum);
  }
}

TEST(TextCheck, OfLargeCorporaOnlyBeginningAndEndAreRead) {
  const TempFolder folder;
  std::string text;
  for (int i = 0; i < 300'000; ++i) text += "€";
  std::string middle = text, end = text;
  middle[450'000] = '\0';
  end[899'990] = '\0';
  folder.write("a", text);
  folder.write("b", middle);
  folder.write("c", end);
  for (const int64_t most : {int64_t{30'000}, int64_t{300'001}, int64_t{300'002}}) {
    const std::vector<TextCheck> checks = check_text_files(list(folder), TextEncoding::utf8, most);
    EXPECT_EQ(checks[0].fault, "");
    EXPECT_THAT(checks[0].repairs, IsEmpty());
    EXPECT_EQ(checks[1].fault, "");
    EXPECT_EQ(checks[1].checksum, checks[0].checksum);
    EXPECT_THAT(checks[2].fault, HasSubstr("byte 899990 is 00"));
  }
}

TEST(TextCheck, AFileThatVanishedOrShrankIsAtFault) {
  const TempFolder folder;
  folder.write("a", "text");
  folder.write("b", "text");
  const std::vector<ListedFile> files = list(folder);
  std::filesystem::remove(folder.path("a"));
  folder.write("b", "t");
  const std::vector<TextCheck> checks = check_text_files(files, TextEncoding::utf8);
  EXPECT_THAT(checks[0].fault, HasSubstr("cannot be read: No such file"));
  EXPECT_THAT(checks[1].fault, HasSubstr("was cut short"));
}

TEST(TextCheck, TheEncodingIsAnOption) {
  const ModalityKind& kind = find_modality("text");
  EXPECT_EQ(text_encoding(ModalityOptions(kind, {})), TextEncoding::utf8);
  EXPECT_EQ(text_encoding(ModalityOptions(kind, {{"encoding", "bytes"}})), TextEncoding::bytes);
  EXPECT_THAT(message_of([&] {
                text_encoding(ModalityOptions(kind, {{"encoding", "latin1"}}));
              }),
              HasSubstr("'latin1' is not one of utf-8, bytes"));
  EXPECT_THAT(message_of([&] {
                text_encoding(ModalityOptions(kind, {{"encoding", "bytes"}, {"tokenizer", "x.model"}}));
              }),
              HasSubstr("needs tokenizer: bytes"));
}

}  // namespace
}  // namespace perceiver
