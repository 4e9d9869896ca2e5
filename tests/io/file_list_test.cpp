#include "io/file_list.h"

#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>

#include "tests/support/other_user.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

struct Listing {
  std::vector<std::string> files;
  std::map<std::string, std::string> skipped;
};

Listing list(const std::vector<std::string>& paths) {
  Listing listing;
  const SkipPath skip = [&](const std::string& path, const std::string& reason) {
    EXPECT_TRUE(listing.skipped.emplace(path, reason).second) << path;
  };
  for (const ListedFile& file : list_files(paths, "data.train", skip)) listing.files.push_back(file.relative);
  return listing;
}

std::string error(const std::string& path) {
  return message_of([&] { list({path}); });
}

TEST(FileList, FollowsLinksToFoldersAndListsEachFolderOnce) {
  const TempFolder folder;
  folder.write("in/real/x.txt", "x");
  folder.write("in/z.txt", "z");
  folder.write("elsewhere/photos/deep/y.txt", "y");
  fs::create_directory_symlink("real", folder.path("in/a_link"));
  fs::create_directory_symlink("..", folder.path("in/real/loop"));
  fs::create_directory_symlink("../elsewhere/photos", folder.path("in/photos"));
  fs::create_directory_symlink("../../elsewhere", folder.path("in/real/all"));
  const Listing listing = list({folder.path("in")});
  EXPECT_THAT(listing.files, ElementsAre("photos/deep/y.txt", "real/x.txt", "z.txt"));
  EXPECT_THAT(listing.skipped, ElementsAre(Pair("a_link", "is the same folder as 'real'"),
                                           Pair("real/all/photos", "is the same folder as 'photos'"),
                                           Pair("real/loop", "is a link to a folder that it is in")));
}

// Each folder holds two links to the next: 2^20 paths lead to the last.
TEST(FileList, LinksDoNotMultiply) {
  const TempFolder folder;
  for (int i = 0; i < 20; ++i) {
    fs::create_directories(folder.path("f/" + std::to_string(i)));
    for (const char* name : {"a", "b"})
      fs::create_directory_symlink("../" + std::to_string(i + 1),
                                   folder.path("f/" + std::to_string(i) + "/" + name));
  }
  folder.write("f/20/x.txt", "x");
  EXPECT_THAT(list({folder.path("f/0")}).files, testing::SizeIs(1));
}

TEST(FileList, SaysWhyAnEntryIsNotListed) {
  const TempFolder folder;
  folder.write("in/a.txt", "a");
  folder.write("in/empty.txt", "");
  folder.write("in/.hidden", "no");
  fs::create_hard_link(folder.path("in/a.txt"), folder.path("in/b.txt"));
  fs::create_symlink("no\nwhere", folder.path("in/broken"));
  fs::create_symlink("self", folder.path("in/self"));
  ASSERT_EQ(::mkfifo(folder.path("in/pipe").c_str(), 0600), 0);
  const Listing listing = list({folder.path("in")});
  EXPECT_THAT(listing.files, ElementsAre("a.txt"));
  EXPECT_THAT(listing.skipped,
              ElementsAre(Pair("b.txt", "is the same file as a.txt"),
                          Pair("broken", "is a broken link to 'no\\x0awhere'"), Pair("empty.txt", "is empty"),
                          Pair("pipe", "is neither a file nor a folder"),
                          Pair("self", "cannot be read: Too many levels of symbolic links")));
}

TEST(FileList, WhatIsNamedItselfMustBeUsable) {
  const TempFolder folder;
  const std::string a = folder.write("a.txt", "a");
  EXPECT_THAT(error(folder.path("none")),
              AllOf(HasSubstr("data.train"), HasSubstr("no such file or folder")));
  EXPECT_THAT(error(folder.write("empty", "")), HasSubstr("empty: is empty"));
  EXPECT_THAT(error("/dev/null"), HasSubstr("neither a file nor a folder"));
  EXPECT_THAT(message_of([&] { list({a, a}); }), HasSubstr("listed already; name it once"));
  EXPECT_THAT(message_of([&] { list({folder.path(), a}); }), HasSubstr("a.txt: is the same file"));
  EXPECT_THAT(error(folder.path("no\x1bne")), HasSubstr("no\\x1bne"));
  EXPECT_TRUE(list_files({a}, "x")[0].named);
  EXPECT_FALSE(list_files({folder.path()}, "x")[0].named);
}

TEST(FileList, UnreadableFilesAndFoldersAreSkipped) {
  const TempFolder folder;
  folder.write("in/a.txt", "a");
  const std::string secret = folder.write("in/secret.txt", "s");
  folder.write("in/locked/b.txt", "b");
  fs::permissions(folder.path(), fs::perms(0755));
  fs::permissions(folder.path("in"), fs::perms(0755));
  fs::permissions(secret, fs::perms::none);
  fs::permissions(folder.path("in/locked"), fs::perms::none);
  {
    const OtherUser nobody;
    const Listing listing = list({folder.path("in")});
    EXPECT_THAT(listing.files, ElementsAre("a.txt"));
    EXPECT_THAT(listing.skipped, ElementsAre(Pair("locked", "cannot be read: Permission denied"),
                                             Pair("secret.txt", "cannot be read: Permission denied")));
    EXPECT_THAT(error(secret), HasSubstr("secret.txt: cannot be read: Permission denied"));
    EXPECT_THAT(error(folder.path("in/locked")), HasSubstr("cannot be read: Permission denied"));
  }
  fs::permissions(folder.path("in/locked"), fs::perms(0755));
}

}  // namespace
}  // namespace perceiver
