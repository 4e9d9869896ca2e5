#include "data/file_notes.h"

#include <gtest/gtest.h>

namespace perceiver {
namespace {

TEST(FileNotes, RemarksAreCountedByFile) {
  EXPECT_EQ(note_remarks({}, "skipped"), "");
  EXPECT_EQ(note_remarks({{"a\x1b", "is odd"}}, "skipped"), "1 file was skipped: a\\x1b: is odd");
  EXPECT_EQ(note_remarks({{"a", "x"}, {"a", "y"}, {"b", "z"}}, "repaired"),
            "2 files were repaired; the first, a: x");
}

}  // namespace
}  // namespace perceiver
