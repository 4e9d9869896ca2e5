#include "data/text/utf8_stream.h"

#include <gtest/gtest.h>

#include "perceiver/experimental/random.h"

namespace perceiver {
namespace {

const std::string fffd = "\xEF\xBF\xBD";

std::string streamed(std::string_view bytes) {
  Utf8Stream stream;
  std::string out;
  for (const char c : bytes) out += stream.put(static_cast<uint8_t>(c));
  return out + stream.flush();
}

TEST(Utf8Stream, ReleasesACharacterWithItsLastByte) {
  Utf8Stream stream;
  EXPECT_EQ(stream.put('a'), "a");
  EXPECT_EQ(stream.put(0xC3), "");
  EXPECT_EQ(stream.put(0xA9), "é");
  EXPECT_EQ(stream.put(0xE2), "");
  EXPECT_EQ(stream.put(0x82), "");
  EXPECT_EQ(stream.put(0xAC), "€");
  EXPECT_EQ(stream.put("\xF0\x9F\x98"), "");
  EXPECT_EQ(stream.put("\x80z"), "😀z");
  EXPECT_EQ(stream.flush(), "");
}

TEST(Utf8Stream, EveryCodePointPassesUnchanged) {
  std::string text;
  const auto put = [&](uint32_t bits) { text.push_back(static_cast<char>(bits)); };
  for (uint32_t c = 0; c <= 0x10FFFF; c += c < 0x3000 ? 1 : 61) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    if (c < 0x80)
      put(c);
    else if (c < 0x800)
      put(0xC0 | c >> 6), put(0x80 | (c & 63));
    else if (c < 0x10000)
      put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 63)), put(0x80 | (c & 63));
    else
      put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 63)), put(0x80 | (c >> 6 & 63)), put(0x80 | (c & 63));
  }
  text += "\xED\x9F\xBF\xEE\x80\x80\xF4\x8F\xBF\xBF";  // U+D7FF, U+E000, U+10FFFF: the edges
  EXPECT_EQ(streamed(text), text);
}

// The examples of the Unicode standard, section 3.9, tables 3-8 to 3-11.
TEST(Utf8Stream, ReplacesMaximalSubparts) {
  const auto f = [](int count) {
    std::string out;
    while (count-- > 0) out += fffd;
    return out;
  };
  EXPECT_EQ(streamed("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), f(8) + "A");               // overlong forms
  EXPECT_EQ(streamed("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), f(8) + "A");               // surrogates
  EXPECT_EQ(streamed("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"), f(5) + "A" + f(2) + "B");  // beyond U+10FFFF
  EXPECT_EQ(streamed("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), f(4) + "A");               // cut short
}

TEST(Utf8Stream, AnUnfinishedCharacterIsReplacedAtTheEnd) {
  Utf8Stream stream;
  EXPECT_EQ(stream.put("ab\xF0\x9F"), "ab");
  EXPECT_EQ(stream.flush(), fffd);
  EXPECT_EQ(stream.put("\x98"), fffd);  // nothing is left of what came before
  EXPECT_EQ(stream.put("c"), "c");
}

/// Sequences of well-formed characters only, checked by the bit patterns rather than by the tables.
bool valid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<uint8_t>(text[i]);
    const size_t length = lead < 0x80         ? 1
                          : (lead >> 5) == 6  ? 2
                          : (lead >> 4) == 14 ? 3
                          : (lead >> 3) == 30 ? 4
                                              : 0;
    if (length == 0 || i + length > text.size()) return false;
    uint32_t code = length == 1 ? lead : lead & (0xFFu >> (length + 1));
    for (size_t k = 1; k < length; ++k) {
      const auto next = static_cast<uint8_t>(text[i + k]);
      if ((next >> 6) != 2) return false;
      code = code << 6 | (next & 63);
    }
    const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (code < least[length] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return false;
    i += length;
  }
  return true;
}

TEST(Utf8Stream, WhateverComesInEveryPieceOutIsValid) {
  const std::string interesting =
      "\x41\x7F\x80\x8F\x90\x9F\xA0\xBF\xC0\xC2\xDF\xE0\xE1\xED\xEF\xF0\xF1\xF4\xF5\xFF";
  RandomStream random(3, RandomPurpose::sampling);
  for (int round = 0; round < 2000; ++round) {
    Utf8Stream stream;
    std::string whole, bytes;
    for (int i = 0; i < 30; ++i) {
      bytes.push_back(interesting[random.below(interesting.size())]);
      const std::string piece = stream.put(static_cast<uint8_t>(bytes.back()));
      ASSERT_TRUE(valid_utf8(piece));
      whole += piece;
    }
    whole += stream.flush();
    ASSERT_TRUE(valid_utf8(whole));
    ASSERT_EQ(streamed(bytes), whole);
    ASSERT_EQ(streamed(whole), whole);
  }
}

}  // namespace
}  // namespace perceiver
