#include "data/split_folders.h"

#include <gmock/gmock.h>

#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

TEST(SplitFolders, KnowsTheUsualNamesInAnyCase) {
  for (const char* validation : {"validation", "val", "valid", "dev", "VAL", "Dev"}) {
    const TempFolder folder;
    for (const std::string& name : {std::string("Train"), std::string(validation), std::string("testing")})
      fs::create_directory(folder.path(name));
    const SplitFolders found = find_split_folders(folder.path());
    EXPECT_TRUE(found.decide());
    EXPECT_EQ(found.name(Split::train), "Train");
    EXPECT_EQ(found.name(Split::validation), validation);
    EXPECT_EQ(found.name(Split::test), "testing");
    EXPECT_EQ(found.list(), std::string("Train/, ") + validation + "/ and testing/");
  }
}

TEST(SplitFolders, OnlyAFolderForTrainingDecides) {
  const TempFolder folder;
  fs::create_directory(folder.path("test"));
  folder.write("train", "a file");
  const SplitFolders found = find_split_folders(folder.path());
  EXPECT_FALSE(found.decide());
  EXPECT_EQ(found.list(), "test/");
  fs::remove(folder.path("train"));
  fs::create_directory(folder.path("elsewhere"));
  fs::create_directory_symlink("elsewhere", folder.path("train"));
  EXPECT_TRUE(find_split_folders(folder.path()).decide());
  EXPECT_FALSE(find_split_folders(folder.path("none")).decide());
  EXPECT_EQ(find_split_folders(folder.write("a.txt", "a")).list(), "");
}

TEST(SplitFolders, TwoForOneSplitAreAnError) {
  const TempFolder folder;
  for (const char* name : {"train", "validation", "val"}) fs::create_directory(folder.path(name));
  EXPECT_THAT(message_of([&] { find_split_folders(folder.path()); }),
              AllOf(HasSubstr("val/ and validation/"), HasSubstr("keep one of them")));
}

}  // namespace
}  // namespace perceiver
