#include "io/file_content.h"

#include <gmock/gmock.h>

#include <cerrno>

#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::HasSubstr;

std::string text(const FileContent& content) {
  return {reinterpret_cast<const char*>(content.bytes().data()), content.bytes().size()};
}

TEST(FileContent, HoldsSmallFilesAndMapsLargeOnes) {
  const TempFolder folder;
  EXPECT_EQ(text(FileContent(folder.write("a", "content"))), "content");
  EXPECT_EQ(text(FileContent(folder.write("empty", ""))), "");
  const std::string large = folder.write("large", "begin");
  std::filesystem::resize_file(large, FileContent::most_memory + 1);
  const FileContent content(large);
  EXPECT_EQ(content.bytes().size(), FileContent::most_memory + 1);
  EXPECT_EQ(static_cast<char>(content.bytes()[4]), 'n');
}

TEST(FileContent, SaysWhyAFileCannotBeRead) {
  const TempFolder folder;
  EXPECT_THAT(message_of([&] { FileContent(folder.path("none")); }),
              HasSubstr("none: cannot be read: No such file"));
  EXPECT_THAT(message_of([&] { FileContent{folder.path()}; }), HasSubstr("not a regular file"));
}

TEST(FileContent, RunningOutOfDescriptorsIsNoFaultOfTheFile) {
  EXPECT_EQ(read_fault(EIO), "cannot be read: Input/output error");
  for (const int error : {EMFILE, ENFILE, ENOMEM}) {
    try {
      read_fault(error);
      FAIL();
    } catch (const Error& thrown) {
      EXPECT_EQ(thrown.kind(), ErrorKind::failure);
    }
  }
}

}  // namespace
}  // namespace perceiver
