#include "io/mapped_file.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "data/text/byte_tokenizer.h"
#include "data/text/text_dataset.h"
#include "perceiver/error.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(MappedFile, ReadsBytes) {
  const TempFolder folder;
  std::string content(100000, ' ');
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 7 % 251);
  const MappedFile file(folder.write("a.bin", content));
  ASSERT_EQ(file.size(), 100000);
  std::vector<uint8_t> part(70001);
  for (const int64_t offset : {int64_t{0}, int64_t{1}, int64_t{4096}, int64_t{29999}}) {
    file.read(offset, part);
    EXPECT_TRUE(
        std::equal(part.begin(), part.end(), reinterpret_cast<const uint8_t*>(content.data()) + offset));
  }
  EXPECT_THROW(file.read(30000, part), Error);
  EXPECT_THROW(file.read(-1, part), Error);
  EXPECT_THROW(file.read(INT64_MAX, part), Error);
}

TEST(MappedFile, SaysWhatIsWrong) {
  const TempFolder folder;
  EXPECT_THAT(message_of([&] { MappedFile(folder.path("none")); }),
              AllOf(HasSubstr("none"), HasSubstr("No such file")));
  EXPECT_THAT(message_of([&] { MappedFile(folder.path()); }), HasSubstr("is a folder"));
  EXPECT_THAT(message_of([&] { MappedFile(folder.write("empty", "")); }), HasSubstr("is empty"));
  EXPECT_THAT(message_of([&] { MappedFile("/dev/null"); }), HasSubstr("regular file"));
  if (::geteuid() == 0) return;  // root may read everything
  const std::string locked = folder.write("locked", "x");
  ::chmod(locked.c_str(), 0);
  EXPECT_THAT(message_of([&] { MappedFile file(locked); }), HasSubstr("readable"));
}

TEST(FileSet, MapsABoundedNumberOfFiles) {
  const TempFolder folder;
  FileSet files(3);
  for (int i = 0; i < 20; ++i)
    files.add(folder.write(std::to_string(i), std::string(i + 1, static_cast<char>(i))), i + 1);
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 20; ++i) {
      uint8_t byte = 255;
      files.read(i, i, {&byte, 1});
      EXPECT_EQ(byte, i);
      EXPECT_LE(files.mapped(), 3);
    }
  }
  EXPECT_EQ(files.mapped(), 3);
}

TEST(FileSet, NoticesAChangedFile) {
  const TempFolder folder;
  const std::string path = folder.write("a", "1234");
  FileSet files;
  files.add(path, 4);
  folder.write("a", "12");
  uint8_t byte = 0;
  EXPECT_THAT(message_of([&] { files.read(0, 3, {&byte, 1}); }), HasSubstr("had 4 bytes"));
}

TEST(FileSet, CanBeReadByThreads) {
  const TempFolder folder;
  FileSet files(2);
  for (int i = 0; i < 8; ++i)
    files.add(folder.write(std::to_string(i), std::string(5000, static_cast<char>(i))), 5000);
  std::atomic<int> wrong = 0;
  const auto work = [&](int start) {
    std::vector<uint8_t> bytes(5000);
    for (int i = 0; i < 400; ++i) {
      const int file = (start + i) % 8;
      files.read(file, 0, bytes);
      wrong += std::any_of(bytes.begin(), bytes.end(), [&](uint8_t b) { return b != file; });
    }
  };
  std::thread a(work, 0), b(work, 3), c(work, 5);
  a.join(), b.join(), c.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace perceiver
