#include "tools/terminal_line.h"

#include <gtest/gtest.h>

#include <sstream>

#include "tests/support/log_entries.h"
#include "tools/console.h"

namespace perceiver::program {
namespace {

TEST(TerminalLine, CountsColumns) {
  EXPECT_EQ(columns_of("step 12"), 7u);
  EXPECT_EQ(columns_of("Dvořák"), 6u);
  EXPECT_EQ(columns_of("e\u0301"), 1u);  // a combining accent
  EXPECT_EQ(columns_of("日本"), 4u);
  EXPECT_EQ(columns_of("😀"), 2u);
  EXPECT_EQ(columns_of("\xff\xe6\x97"), 3u);  // not UTF-8: a column for each byte
  EXPECT_EQ(columns_of(""), 0u);
}

TEST(TerminalLine, CutsBetweenCharacters) {
  EXPECT_EQ(cut_to_columns("Dvořák", 6), "Dvořák");
  EXPECT_EQ(cut_to_columns("Dvořák", 5), "Dvoř…");
  EXPECT_EQ(cut_to_columns("日本語", 4), "日…");
  EXPECT_EQ(cut_to_columns("日本語", 3), "日…");
  EXPECT_EQ(cut_to_columns("abc", 1), "…");
  EXPECT_EQ(cut_to_columns("abc", 0), "");
  EXPECT_EQ(cut_to_columns("abc", kNoLimit), "abc");
}

TEST(TerminalLine, LeavesOutTheLeastImportantFieldsFirst) {
  const std::vector<LineField> fields{{"step 1", 0}, {"  loss 2", 1}, {" (3 bits)", 3}, {"  4 left", 2}};
  EXPECT_EQ(fit_fields(fields, kNoLimit), "step 1  loss 2 (3 bits)  4 left");
  EXPECT_EQ(fit_fields(fields, 31), "step 1  loss 2 (3 bits)  4 left");
  EXPECT_EQ(fit_fields(fields, 30), "step 1  loss 2  4 left");
  EXPECT_EQ(fit_fields(fields, 21), "step 1  loss 2");
  EXPECT_EQ(fit_fields(fields, 13), "step 1");
  EXPECT_EQ(fit_fields(fields, 3), "step 1");  // cut by the console
  EXPECT_EQ(fit_fields({}, 10), "");
}

TEST(TerminalLine, ProgressFitsEveryWidth) {
  LogEntry entry = testing::log_entry(1200);
  entry.skipped = 3;
  const std::vector<LineField> fields = progress_fields(entry);
  size_t last = 0;
  for (size_t columns = 14; columns < 160; ++columns) {
    const size_t used = columns_of(fit_fields(fields, columns));
    EXPECT_LE(used, columns);
    EXPECT_GE(used, last);
    last = used;
  }
  EXPECT_EQ(fit_fields(fields, kNoLimit), progress_line(entry));
}

TEST(TerminalLine, TheConsoleKeepsOneColumnFree) {
  const auto shown = [](bool terminal, size_t columns) {
    std::ostringstream out;
    {
      Console console(out, terminal, [columns] { return columns; });
      console.progress(std::vector<LineField>{{"step 1", 0}, {"  loss 2", 1}});
      console.settle();
      console.status("12 of 40 tokens");
      console.settle();
    }
    return out.str();
  };
  const std::string erase = "\r\x1b[K";
  EXPECT_EQ(shown(true, 80), erase + "step 1  loss 2\n" + erase + "12 of 40 tokens" + erase);
  EXPECT_EQ(shown(true, 0), shown(true, 80));
  EXPECT_EQ(shown(true, 14), erase + "step 1\n" + erase + "12 of 40 tok…" + erase);
  EXPECT_EQ(shown(true, 5), erase + "ste…\n" + erase + "12 …" + erase);
  EXPECT_EQ(shown(false, 14), "step 1  loss 2\n");
}

}  // namespace
}  // namespace perceiver::program
