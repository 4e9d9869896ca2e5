#include "base/text.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace perceiver
