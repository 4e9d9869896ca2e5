#include "data/text/text_lines.h"

#include <gtest/gtest.h>

#include "base/text.h"
#include "data/modality.h"
#include "data/text/sentencepiece_tokenizer.h"
#include "data/text/word_counter.h"
#include "tests/support/sentencepiece_model.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

TEST(TextLines, TakesLinesEvenly) {
  const TempFolder folder;
  std::string text;
  for (int i = 0; i < 100; ++i) text += std::to_string(1000 + i) + "\n";
  folder.write("a.txt", text);
  folder.write("b.txt", "bad \xFF line\n\nlast line without end");
  const auto all = [&](int64_t max_bytes) {
    TextLines lines(list_files({folder.path()}, "x"), max_bytes);
    std::vector<std::string> found;
    for (std::string line; lines.next(line);) found.push_back(line);
    return found;
  };
  EXPECT_EQ(all(1 << 20).size(), 101u);
  EXPECT_EQ(all(1 << 20).back(), "last line without end");
  const std::vector<std::string> half = all(267);
  EXPECT_NEAR(static_cast<double>(half.size()), 50, 1);
  EXPECT_EQ(half[0], "1001");
  EXPECT_EQ(half[1], "1003");
}

TEST(TextLines, CutsLongLinesBetweenCharacters) {
  const TempFolder folder;
  std::string text = "a";
  while (text.size() < 10000) text += "\xC3\xA9";
  TextLines lines(list_files({folder.write("a.txt", text)}, "x"), 1 << 20);
  std::string line, joined;
  while (lines.next(line)) {
    EXPECT_TRUE(is_utf8(line));
    EXPECT_LE(line.size(), TextLines::max_line_bytes);
    joined += line;
  }
  EXPECT_EQ(joined, text);
}

}  // namespace
}  // namespace perceiver
