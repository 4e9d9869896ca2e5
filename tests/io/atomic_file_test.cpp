#include "io/atomic_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "base/random.h"
#include "io/atomic_folder.h"
#include "io/checksum.h"
#include "io/temporary_name.h"
#include "perceiver/error.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

class FilesTest : public testing::Test {
 protected:
  FilesTest() {
    std::string name = (fs::temp_directory_path() / "perceiver-files-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~FilesTest() override { fs::remove_all(folder_); }

  void put(const fs::path& path, const std::string& text) { std::ofstream(path) << text; }
  std::string get(const fs::path& path) { return read_file(path, 1 << 20); }
  std::vector<std::string> names() {
    std::vector<std::string> result;
    for (const auto& entry : fs::directory_iterator(folder_))
      result.push_back(entry.path().filename().string());
    return result;
  }

  fs::path folder_;
};

template <typename Function>
Error error_of(Function function) {
  try {
    function();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error was thrown";
  return Error(ErrorKind::failure, "");
}

/// Runs `body` in a child process in which files cannot grow past `bytes`; returns its exit status.
template <typename Function>
int run_with_file_limit(rlim_t bytes, Function body) {
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, bytes};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    ::_exit(body());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(FilesTest, AtomicFileAppearsOnlyWithCommit) {
  const fs::path path = folder_ / "a.txt";
  {
    AtomicFile file(path);
    file.write("one ");
    file.write("two");
    EXPECT_FALSE(fs::exists(path));
    file.commit();
  }
  EXPECT_EQ(get(path), "one two");
  EXPECT_THAT(names(), testing::ElementsAre("a.txt"));
}

TEST_F(FilesTest, UncommittedFileLeavesThePreviousOneAndNoTemporary) {
  put(folder_ / "a.txt", "old");
  {
    AtomicFile file(folder_ / "a.txt");
    file.write("new");
    EXPECT_EQ(names().size(), 2u);
  }
  EXPECT_EQ(get(folder_ / "a.txt"), "old");
  EXPECT_THAT(names(), testing::ElementsAre("a.txt"));
}

TEST_F(FilesTest, TwoWritersOfOneNameDoNotMix) {
  AtomicFile first(folder_ / "a.txt");
  AtomicFile second(folder_ / "a.txt");
  first.write("first");
  second.write("second");
  first.commit();
  second.commit();
  EXPECT_EQ(get(folder_ / "a.txt"), "second");
}

TEST_F(FilesTest, RelativePathIsWrittenInTheCurrentFolder) {
  const fs::path before = fs::current_path();
  fs::current_path(folder_);
  write_file_atomically("a.txt", "here");
  fs::current_path(before);
  EXPECT_EQ(get(folder_ / "a.txt"), "here");
}

TEST_F(FilesTest, FullDiskIsOneClearFailure) {
  const Error error = error_of([] {
    OutputFile file("/dev/full");
    file.write("x");
  });
  EXPECT_EQ(error.kind(), ErrorKind::failure);
  EXPECT_STREQ(
      error.what(),
      "cannot write at byte 0 of '/dev/full': No space left on device; free space or choose another folder");
}

TEST_F(FilesTest, ShortWriteKeepsThePreviousFile) {
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
  EXPECT_THAT(names(), testing::ElementsAre("a.txt"));
}

TEST_F(FilesTest, MissingFolderAndFolderAsFileAreFailures) {
  const Error missing = error_of([&] { write_file_atomically(folder_ / "no" / "a.txt", "x"); });
  EXPECT_EQ(missing.kind(), ErrorKind::failure);
  EXPECT_THAT(missing.what(), AllOf(HasSubstr("no/a.txt"), HasSubstr("No such file or directory")));
  fs::create_directory(folder_ / "taken");
  const Error taken = error_of([&] { write_file_atomically(folder_ / "taken", "x"); });
  EXPECT_THAT(taken.what(), HasSubstr("Is a directory"));
  EXPECT_THAT(names(), testing::ElementsAre("taken"));
}

TEST_F(FilesTest, ReadFileChecksItsLimit) {
  put(folder_ / "a.txt", std::string(100000, 'x'));
  EXPECT_EQ(read_file(folder_ / "a.txt", 100000).size(), 100000u);
  const Error error = error_of([&] { read_file(folder_ / "a.txt", 99999); });
  EXPECT_EQ(error.kind(), ErrorKind::user);
  EXPECT_THAT(error.what(), AllOf(HasSubstr("a.txt"), HasSubstr("99999")));
}

TEST_F(FilesTest, ReadFileOfMissingFileOrFolderIsAUserError) {
  EXPECT_EQ(error_of([&] { read_file(folder_ / "no.txt", 10); }).kind(), ErrorKind::user);
  EXPECT_THAT(error_of([&] { read_file(folder_, 10); }).what(), HasSubstr("it is a folder"));
}

TEST_F(FilesTest, FolderAppearsOnlyWithCommitAndReplacesTheEarlierOne) {
  const fs::path path = folder_ / "best";
  for (const std::string text : {"one", "two"}) {
    AtomicFolder folder(path);
    folder.write_file("state.json", text);
    OutputFile file = folder.create_file("model");
    file.write(std::string(100, 'm'));
    file.finish();
    EXPECT_EQ(fs::exists(path), text == "two");
    folder.commit();
    EXPECT_EQ(get(path / "state.json"), text);
  }
  EXPECT_EQ(get(path / "model").size(), 100u);
  EXPECT_THAT(names(), testing::ElementsAre("best"));
}

TEST_F(FilesTest, UncommittedFolderLeavesThePreviousOne) {
  const auto write = [&](const std::string& text, bool commit) {
    AtomicFolder folder((folder_ / "best").string() + "/");
    folder.write_file("state.json", text);
    if (commit) folder.commit();
  };
  write("old", true);
  write("new", false);
  EXPECT_EQ(get(folder_ / "best" / "state.json"), "old");
  EXPECT_THAT(names(), testing::ElementsAre("best"));
}

TEST_F(FilesTest, ShortWriteKeepsThePreviousFolder) {
  const int status = run_with_file_limit(4096, [&] {
    const auto write = [&](size_t size) {
      AtomicFolder folder(folder_ / "best");
      folder.write_file("state.json", std::string(size, 'x'));
      folder.commit();
    };
    write(10);
    return error_of([&] { write(5000); }).kind() == ErrorKind::failure ? 0 : 1;
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(get(folder_ / "best" / "state.json"), std::string(10, 'x'));
  EXPECT_THAT(names(), testing::ElementsAre("best"));
}

TEST_F(FilesTest, FolderNeverReplacesAFile) {
  put(folder_ / "best", "a file");
  AtomicFolder folder(folder_ / "best");
  EXPECT_EQ(error_of([&] { folder.commit(); }).kind(), ErrorKind::failure);
  EXPECT_EQ(get(folder_ / "best"), "a file");
}

TEST_F(FilesTest, ReplacingByRenamesKeepsTheNewFolder) {
  for (const std::string name : {"new", "best"}) {
    fs::create_directory(folder_ / name);
    put(folder_ / name / "x", name);
  }
  replace_folder_by_renames(folder_ / "new", folder_ / "best");
  EXPECT_EQ(get(folder_ / "best" / "x"), "new");
  EXPECT_THAT(names(), testing::ElementsAre("best"));
}

TEST_F(FilesTest, ReplacingByRenamesRestoresTheOldFolderWhenTheNewOneIsMissing) {
  fs::create_directory(folder_ / "best");
  put(folder_ / "best" / "x", "old");
  EXPECT_EQ(error_of([&] { replace_folder_by_renames(folder_ / "none", folder_ / "best"); }).kind(),
            ErrorKind::failure);
  EXPECT_EQ(get(folder_ / "best" / "x"), "old");
}

TEST_F(FilesTest, StaleTemporariesOfKilledWritersAreRemoved) {
  const pid_t child = ::fork();
  if (child == 0) {
    AtomicFile file(folder_ / "a.txt");
    AtomicFolder folder(folder_ / "best");
    folder.write_file("state.json", std::string("half"));
    ::kill(::getpid(), SIGKILL);
  }
  ::waitpid(child, nullptr, 0);
  put(folder_ / "notes.tmp-draft", "kept");
  EXPECT_EQ(names().size(), 3u);
  EXPECT_EQ(remove_stale_temporaries(folder_), 2);
  EXPECT_THAT(names(), testing::ElementsAre("notes.tmp-draft"));
}

TEST_F(FilesTest, AKillAtAnyMomentLeavesAWholeFolder) {
  const fs::path path = folder_ / "best";
  const auto write = [&](const std::string& text) {
    AtomicFolder folder(path);
    folder.write_file("a", text);
    folder.write_file("b", text);
    folder.commit();
  };
  write("first");
  RandomStream random(1, RandomPurpose::batch);
  for (int i = 0; i < 40; ++i) {
    const pid_t child = ::fork();
    if (child == 0)
      for (int version = 0;; ++version) write(std::to_string(version));
    ::usleep(static_cast<useconds_t>(random.below(5000)));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    EXPECT_EQ(get(path / "a"), get(path / "b"));
    remove_stale_temporaries(folder_);
    EXPECT_THAT(names(), testing::ElementsAre("best"));
  }
  write("last");
  EXPECT_EQ(get(path / "b"), "last");
}

TEST_F(FilesTest, TemporariesInUseStay) {
  AtomicFile file(folder_ / "a.txt");
  AtomicFolder folder(folder_ / "best");
  file.write("x");
  EXPECT_EQ(remove_stale_temporaries(folder_), 0);
  file.commit();
  folder.commit();
  EXPECT_THAT(names(), testing::UnorderedElementsAre("a.txt", "best"));
}

TEST_F(FilesTest, AFolderMovedAsideGetsItsNameBackOnlyIfItIsFree) {
  for (const std::string name : {"lost.old-12", "here.old-12", "here"}) {
    fs::create_directory(folder_ / name);
    put(folder_ / name / "x", name);
  }
  EXPECT_EQ(remove_stale_temporaries(folder_), 1);
  EXPECT_THAT(names(), testing::UnorderedElementsAre("lost", "here"));
  EXPECT_EQ(get(folder_ / "lost" / "x"), "lost.old-12");
  EXPECT_EQ(get(folder_ / "here" / "x"), "here");
}

TEST_F(FilesTest, MissingFolderHasNoStaleTemporaries) {
  EXPECT_EQ(remove_stale_temporaries(folder_ / "no"), 0);
}

TEST(TemporaryName, ReadsBackWhatItMade) {
  for (const int attempt : {0, 7}) {
    const auto name =
        parse_temporary_name(temporary_path("x/best.v2", TemporaryKind::unfinished, attempt).filename());
    ASSERT_TRUE(name);
    EXPECT_EQ(name->final_name, "best.v2");
    EXPECT_EQ(name->kind, TemporaryKind::unfinished);
  }
  for (const char* other :
       {"best", ".tmp-1", "best.tmp-", "best.tmp-1a", "best.tmp-1-", "best.tmp--1", "best-tmp-1"})
    EXPECT_FALSE(parse_temporary_name(other)) << other;
}

TEST_F(FilesTest, ChecksumOfFileAndOfPiecesAgreeWithTheReferenceValue) {
  // XXH3-64 of "" and of "abc", seed 0 (published test values of the xxHash project's xxhsum).
  put(folder_ / "empty", "");
  put(folder_ / "abc", "abc");
  EXPECT_EQ(file_checksum(folder_ / "empty"), 0x2d06800538d394c2ull);
  EXPECT_EQ(file_checksum(folder_ / "abc"), 0x78af5f94892f3950ull);
  const std::string text(3'000'000, 'q');
  put(folder_ / "long", text);
  Checksum checksum;
  const auto bytes = std::as_bytes(std::span(text));
  checksum.update(bytes.first(12345));
  checksum.update(bytes.subspan(12345));
  EXPECT_EQ(checksum.digest(), file_checksum(folder_ / "long"));
}

}  // namespace
}  // namespace perceiver
