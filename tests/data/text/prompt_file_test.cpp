#include "data/text/prompt_file.h"

#include <gtest/gtest.h>

#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using Prompts = std::vector<std::string>;
using namespace std::string_literals;

TEST(PromptFile, LinesFromWindowsAreTheLinesThatWereTyped) {
  EXPECT_EQ(prompt_lines("\xef\xbb\xbfthe cat\r\nand\r\n", false, "p"), (Prompts{"the cat", "and"}));
  EXPECT_EQ(prompt_lines("a\r\n\r\n \t\r\nb", false, "p"), (Prompts{"a", "b"})) << "blank lines, no last end";
  EXPECT_EQ(prompt_lines("  a \n", false, "p"), (Prompts{"  a "})) << "spaces are part of the prompt";
  EXPECT_EQ(prompt_lines("a\rb\n", false, "p"), (Prompts{"a\rb"})) << "only the \\r of a line's end goes";
}

TEST(PromptFile, JsonLines) {
  EXPECT_EQ(prompt_lines("\"a\"\r\n\r\n{\"prompt\": \"b\\n\"}\r\n", true, "p"), (Prompts{"a", "b\n"}));
  EXPECT_EQ(message_of([] { prompt_lines("\"a\"\n{}\n", true, "p"); }),
            "p:2: expected a JSON string or an object with a string 'prompt'");
}

TEST(PromptFile, OnePromptKeepsItsLineEnds) {
  EXPECT_EQ(prompt_text("\xef\xbb\xbfone\r\ntwo\r\n", "p"), "one\r\ntwo\r\n");
  EXPECT_EQ(prompt_text("", "p"), "");
}

TEST(PromptFile, WhatIsNoTextIsNamed) {
  EXPECT_EQ(message_of([] {
              prompt_text(
                  "\xff\xfe"
                  "a\0"s,
                  "p.txt");
            }),
            "p.txt: is UTF-16; prompts are UTF-8: iconv -f UTF-16 -t UTF-8 p.txt > new.txt");
  EXPECT_EQ(message_of([] { prompt_lines("a\0b"s, false, "p"); }),
            "p: byte 1 is NUL, so it is not text; prompts are UTF-8");
  EXPECT_EQ(message_of([] { prompt_lines("\r\n\n", false, "p"); }),
            "p: contains no prompt; expected one a line");
}

}  // namespace
}  // namespace perceiver
