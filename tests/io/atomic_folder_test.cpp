#include "io/atomic_folder.h"

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "io/atomic_file.h"
#include "io/checksum.h"
#include "io/temporary_name.h"
#include "perceiver/error.h"
#include "perceiver/experimental/random.h"
#include "tests/support/files_test.h"

namespace perceiver {
namespace {

using AtomicFolderTest = testing::FilesTest;

using testing::error_of;
using testing::run_with_file_limit;

namespace fs = std::filesystem;

TEST_F(AtomicFolderTest, FolderAppearsOnlyWithCommitAndReplacesTheEarlierOne) {
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
  EXPECT_THAT(names(), ::testing::ElementsAre("best"));
}

TEST_F(AtomicFolderTest, UncommittedFolderLeavesThePreviousOne) {
  const auto write = [&](const std::string& text, bool commit) {
    AtomicFolder folder((folder_ / "best").string() + "/");
    folder.write_file("state.json", text);
    if (commit) folder.commit();
  };
  write("old", true);
  write("new", false);
  EXPECT_EQ(get(folder_ / "best" / "state.json"), "old");
  EXPECT_THAT(names(), ::testing::ElementsAre("best"));
}

TEST_F(AtomicFolderTest, ShortWriteKeepsThePreviousFolder) {
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
  EXPECT_THAT(names(), ::testing::ElementsAre("best"));
}

TEST_F(AtomicFolderTest, FolderNeverReplacesAFile) {
  put(folder_ / "best", "a file");
  AtomicFolder folder(folder_ / "best");
  EXPECT_EQ(error_of([&] { folder.commit(); }).kind(), ErrorKind::failure);
  EXPECT_EQ(get(folder_ / "best"), "a file");
}

TEST_F(AtomicFolderTest, ReplacingByRenamesKeepsTheNewFolder) {
  for (const std::string name : {"new", "best"}) {
    fs::create_directory(folder_ / name);
    put(folder_ / name / "x", name);
  }
  replace_folder_by_renames(folder_ / "new", folder_ / "best");
  EXPECT_EQ(get(folder_ / "best" / "x"), "new");
  EXPECT_THAT(names(), ::testing::ElementsAre("best"));
}

TEST_F(AtomicFolderTest, ReplacingByRenamesRestoresTheOldFolderWhenTheNewOneIsMissing) {
  fs::create_directory(folder_ / "best");
  put(folder_ / "best" / "x", "old");
  EXPECT_EQ(error_of([&] { replace_folder_by_renames(folder_ / "none", folder_ / "best"); }).kind(),
            ErrorKind::failure);
  EXPECT_EQ(get(folder_ / "best" / "x"), "old");
}

TEST_F(AtomicFolderTest, StaleTemporariesOfKilledWritersAreRemoved) {
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
  EXPECT_THAT(names(), ::testing::ElementsAre("notes.tmp-draft"));
}

TEST_F(AtomicFolderTest, AKillAtAnyMomentLeavesAWholeFolder) {
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
    EXPECT_THAT(names(), ::testing::ElementsAre("best"));
  }
  write("last");
  EXPECT_EQ(get(path / "b"), "last");
}

TEST_F(AtomicFolderTest, TemporariesInUseStay) {
  AtomicFile file(folder_ / "a.txt");
  AtomicFolder folder(folder_ / "best");
  file.write("x");
  EXPECT_EQ(remove_stale_temporaries(folder_), 0);
  file.commit();
  folder.commit();
  EXPECT_THAT(names(), ::testing::UnorderedElementsAre("a.txt", "best"));
}

TEST_F(AtomicFolderTest, AFolderMovedAsideGetsItsNameBackOnlyIfItIsFree) {
  for (const std::string name : {"lost.old-12", "here.old-12", "here"}) {
    fs::create_directory(folder_ / name);
    put(folder_ / name / "x", name);
  }
  EXPECT_EQ(remove_stale_temporaries(folder_), 1);
  EXPECT_THAT(names(), ::testing::UnorderedElementsAre("lost", "here"));
  EXPECT_EQ(get(folder_ / "lost" / "x"), "lost.old-12");
  EXPECT_EQ(get(folder_ / "here" / "x"), "here");
}

TEST_F(AtomicFolderTest, MissingFolderHasNoStaleTemporaries) {
  EXPECT_EQ(remove_stale_temporaries(folder_ / "no"), 0);
}

}  // namespace
}  // namespace perceiver
