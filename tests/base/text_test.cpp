#include "base/text.h"

#include <gtest/gtest.h>

#include "base/plural.h"
#include "config/schema.h"

namespace perceiver {
namespace {

TEST(Text, Utf8) {
  for (const char* good : {"", "a", "é", "日本", "😀", "\xef\xbf\xbf", "\xf4\x8f\xbf\xbf"})
    EXPECT_TRUE(is_utf8(good)) << good;
  for (const char* bad : {"\x80", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf0\x80\x80\x80",
                          "\xf4\x90\x80\x80", "\xff", "\xe6\x97", "\xc3(", "\xf5\x80\x80\x80"})
    EXPECT_FALSE(is_utf8(bad)) << bad;
}

TEST(Text, QuotesStayShortAndOnOneLine) {
  EXPECT_EQ(quote("a\nb\x1b"), "'a\\x0ab\\x1b'");
  EXPECT_EQ(quote(std::string(100, 'x')), "'" + std::string(60, 'x') + "...'");
  EXPECT_TRUE(is_utf8(quote(std::string(59, 'x') + "日本")));
}

TEST(Text, NothingThatCouldDriveATerminalIsPrintable) {
  EXPECT_EQ(printable("caf\xc3\xa9\t\x7f"), "caf\xc3\xa9\\x09\\x7f");
  EXPECT_EQ(printable("\xc2\x9b"
                      "2J\xc2\xa0"),
            "\\xc2\\x9b"
            "2J\xc2\xa0")
      << "C1, a no-break space";
  EXPECT_EQ(printable("\xff"
                      "a\xe6\x97"),
            "\\xff"
            "a\\xe6\\x97")
      << "not UTF-8";
  EXPECT_EQ(printable("\xe6\x97\xa5\xf0\x9f\x98\x80"), "\xe6\x97\xa5\xf0\x9f\x98\x80");
  EXPECT_EQ(printable(printable("\x1b")), "\\x1b") << "printable text stays as it is";
}

TEST(Plural, OneIsSingular) {
  EXPECT_EQ(counted(0, "document"), "0 documents");
  EXPECT_EQ(counted(1, "document"), "1 document");
  EXPECT_EQ(counted(int64_t{2}, "document"), "2 documents");
  EXPECT_EQ(plural(1, "byte"), "byte");
}

}  // namespace
}  // namespace perceiver
