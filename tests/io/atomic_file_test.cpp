#include "io/atomic_file.h"

#include <gmock/gmock.h>

#include "io/atomic_folder.h"
#include "io/checksum.h"
#include "io/temporary_name.h"
#include "perceiver/error.h"
#include "perceiver/experimental/random.h"
#include "tests/support/files_test.h"

namespace perceiver {
namespace {

using AtomicFileTest = testing::FilesTest;

using testing::error_of;
using testing::run_with_file_limit;

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST_F(AtomicFileTest, AtomicFileAppearsOnlyWithCommit) {
  const fs::path path = folder_ / "a.txt";
  {
    AtomicFile file(path);
    file.write("one ");
    file.write("two");
    EXPECT_FALSE(fs::exists(path));
    file.commit();
  }
  EXPECT_EQ(get(path), "one two");
  EXPECT_THAT(names(), ::testing::ElementsAre("a.txt"));
}

TEST_F(AtomicFileTest, UncommittedFileLeavesThePreviousOneAndNoTemporary) {
  put(folder_ / "a.txt", "old");
  {
    AtomicFile file(folder_ / "a.txt");
    file.write("new");
    EXPECT_EQ(names().size(), 2u);
  }
  EXPECT_EQ(get(folder_ / "a.txt"), "old");
  EXPECT_THAT(names(), ::testing::ElementsAre("a.txt"));
}

TEST_F(AtomicFileTest, TwoWritersOfOneNameDoNotMix) {
  AtomicFile first(folder_ / "a.txt");
  AtomicFile second(folder_ / "a.txt");
  first.write("first");
  second.write("second");
  first.commit();
  second.commit();
  EXPECT_EQ(get(folder_ / "a.txt"), "second");
}

TEST_F(AtomicFileTest, RelativePathIsWrittenInTheCurrentFolder) {
  const fs::path before = fs::current_path();
  fs::current_path(folder_);
  write_file_atomically("a.txt", "here");
  fs::current_path(before);
  EXPECT_EQ(get(folder_ / "a.txt"), "here");
}

TEST_F(AtomicFileTest, FullDiskIsOneClearFailure) {
  const Error error = error_of([] {
    OutputFile file("/dev/full");
    file.write("x");
  });
  EXPECT_EQ(error.kind(), ErrorKind::failure);
  EXPECT_STREQ(
      error.what(),
      "cannot write at byte 0 of '/dev/full': No space left on device; free space or choose another folder");
}

TEST_F(AtomicFileTest, ShortWriteKeepsThePreviousFile) {
  put(folder_ / "a.txt", "old");
  const int status = run_with_file_limit(4096, [&] {
    const Error error = error_of([&] { write_file_atomically(folder_ / "a.txt", std::string(10000, 'x')); });
    const std::string text = error.what();
    return text.find("at byte 4096 of") != std::string::npos &&
                   text.find("File too large") != std::string::npos
               ? 0
               : 1;
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(get(folder_ / "a.txt"), "old");
  EXPECT_THAT(names(), ::testing::ElementsAre("a.txt"));
}

TEST_F(AtomicFileTest, MissingFolderAndFolderAsFileAreFailures) {
  const Error missing = error_of([&] { write_file_atomically(folder_ / "no" / "a.txt", "x"); });
  EXPECT_EQ(missing.kind(), ErrorKind::failure);
  EXPECT_THAT(missing.what(), AllOf(HasSubstr("no/a.txt"), HasSubstr("No such file or directory")));
  fs::create_directory(folder_ / "taken");
  const Error taken = error_of([&] { write_file_atomically(folder_ / "taken", "x"); });
  EXPECT_THAT(taken.what(), HasSubstr("Is a directory"));
  EXPECT_THAT(names(), ::testing::ElementsAre("taken"));
}

TEST_F(AtomicFileTest, ReadFileChecksItsLimit) {
  put(folder_ / "a.txt", std::string(100000, 'x'));
  EXPECT_EQ(read_file(folder_ / "a.txt", 100000).size(), 100000u);
  const Error error = error_of([&] { read_file(folder_ / "a.txt", 99999); });
  EXPECT_EQ(error.kind(), ErrorKind::user);
  EXPECT_THAT(error.what(), AllOf(HasSubstr("a.txt"), HasSubstr("99999")));
}

TEST_F(AtomicFileTest, ReadFileOfMissingFileOrFolderIsAUserError) {
  EXPECT_EQ(error_of([&] { read_file(folder_ / "no.txt", 10); }).kind(), ErrorKind::user);
  EXPECT_THAT(error_of([&] { read_file(folder_, 10); }).what(), HasSubstr("it is a folder"));
}

TEST_F(AtomicFileTest, ProgressIsReportedEvery64MiB) {
  const std::vector<std::byte> piece(size_t{50} << 20, std::byte{7});
  OutputFile file(folder_ / "long");
  std::vector<uint64_t> reported;
  file.on_progress([&] { reported.push_back(file.size()); });
  for (int i = 0; i < 3; ++i) file.write(piece);
  file.finish();
  EXPECT_EQ(reported, (std::vector<uint64_t>{uint64_t{64} << 20, uint64_t{128} << 20}));
  EXPECT_EQ(std::filesystem::file_size(file.path()), 3 * piece.size());
}

}  // namespace
}  // namespace perceiver
