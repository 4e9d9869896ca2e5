#include "data/splits.h"

#include <gmock/gmock.h>

#include "tests/support/data_paths.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<std::string> names(const std::vector<ListedFile>& files) {
  std::vector<std::string> names;
  for (const ListedFile& file : files) names.push_back(file.relative);
  return names;
}

SplitListing list(const DataConfig& config, const std::string& modality = "text") {
  return list_splits(config, find_modality(modality));
}

/// A corpus with a file in each of those places.
std::string corpus(const TempFolder& folder, const std::vector<std::string>& files) {
  for (const std::string& file : files) folder.write("d/" + file, file);
  return folder.path("d");
}

TEST(Splits, AFolderWithTrainHasItsOwnSplits) {
  const TempFolder folder;
  const DataConfig config =
      paths({corpus(folder, {"train/a", "train/deep/b", "val/c", "test/d", "README", "more/e"})}, 0.5, 0.5);
  SplitListing listing = list(config);
  EXPECT_THAT(names(listing.of(Split::train)), ElementsAre("train/a", "train/deep/b"));
  EXPECT_THAT(names(listing.of(Split::validation)), ElementsAre("val/c"));
  EXPECT_THAT(names(listing.of(Split::test)), ElementsAre("test/d"));
  const std::string outside = "is outside the folders train/, val/ and test/";
  EXPECT_THAT(listing.skipped, ElementsAre(FileRemark{"README", outside}, FileRemark{"more/e", outside}));
  EXPECT_THAT(listing.notes, IsEmpty());
  EXPECT_EQ(validation_share(config, listing), 0);
  EXPECT_EQ(test_share(config, listing), 0);
}

TEST(Splits, ASplitWithoutAFolderIsAFractionOfTrain) {
  const TempFolder folder;
  const DataConfig config = paths({corpus(folder, {"train/a", "train/b", "test/d"})}, 0.5, 0.25);
  SplitListing listing = list(config);
  EXPECT_THAT(names(listing.of(Split::train)), ElementsAre("train/a", "train/b"));
  EXPECT_THAT(listing.of(Split::validation), IsEmpty());
  EXPECT_EQ(validation_share(config, listing), 0.5);
  EXPECT_EQ(test_share(config, listing), 0);
}

TEST(Splits, WithoutTrainEverythingIsForTrainingAndThatIsSaid) {
  const TempFolder folder;
  SplitListing listing = list(paths({corpus(folder, {"a", "test/b", "val/c"})}));
  EXPECT_THAT(names(listing.of(Split::train)), ElementsAre("a", "test/b", "val/c"));
  EXPECT_THAT(listing.notes, ElementsAre(AllOf(HasSubstr("has val/ and test/ but no train/"),
                                               HasSubstr("used like all others"))));
}

TEST(Splits, AnEmptyFolderOfASplitIsNoted) {
  const TempFolder folder;
  SplitListing listing = list(paths({corpus(folder, {"train/a", "validation/.hidden"})}, 0.5));
  EXPECT_TRUE(listing.has(Split::validation));
  EXPECT_THAT(listing.notes, ElementsAre(HasSubstr("validation/ has no usable files")));
}

TEST(Splits, NamedPathsWinOverFolders) {
  const TempFolder folder;
  DataConfig config = paths({corpus(folder, {"train/a", "validation/b", "validation/c", "other/d"})});
  config.validation = {folder.write("elsewhere/e", "e")};
  SplitListing listing = list(config);
  EXPECT_THAT(names(listing.of(Split::validation)), ElementsAre("e"));
  EXPECT_THAT(listing.skipped, testing::UnorderedElementsAre(
                                   FileRemark{"validation/b", "is not among the files of data.validation"},
                                   FileRemark{"validation/c", "is not among the files of data.validation"},
                                   FileRemark{"other/d", "is outside the folders train/ and validation/"}));
  config.validation = {folder.path("d/validation")};
  listing = list(config);
  EXPECT_THAT(names(listing.of(Split::validation)), ElementsAre("b", "c"));
  EXPECT_THAT(listing.skipped, testing::SizeIs(1));
  config.validation = {folder.path("d/other")};
  listing = list(config);
  EXPECT_THAT(names(listing.of(Split::validation)), ElementsAre("d"));
  EXPECT_THAT(listing.skipped, testing::SizeIs(2));  // validation/
}

TEST(Splits, WhatIsAmbiguousIsAnError) {
  const TempFolder folder;
  DataConfig config = paths({corpus(folder, {"train/a", "test/b"})});
  config.validation = {folder.path("d/test")};
  EXPECT_THAT(message_of([&] { list(config); }), AllOf(HasSubstr("data.validation"), HasSubstr("data.test")));
  config.train = {folder.write("e/x", "x")};
  config.validation = {folder.path("d")};
  EXPECT_THAT(message_of([&] { list(config); }),
              HasSubstr("has splits of its own (train/ and test/); name one of them"));
  config.validation = {folder.path("e/x")};
  EXPECT_THAT(message_of([&] { list(config); }), HasSubstr("a file can only be in one split"));
}

TEST(Splits, SeveralCorporaArePooled) {
  const TempFolder folder;
  folder.write("a/train/1", "1");
  folder.write("a/test/2", "2");
  folder.write("b/3", "3");
  SplitListing listing = list(paths({folder.path("a"), folder.path("b")}, 0.5));
  EXPECT_THAT(names(listing.of(Split::train)), ElementsAre("train/1", "3"));
  EXPECT_THAT(names(listing.of(Split::test)), ElementsAre("test/2"));
}

TEST(Splits, AFileNamedItselfIsNeverDropped) {
  const TempFolder folder;
  const std::string text = folder.write("d/a.txt", "a"), array = folder.write("d/b.npy", "b"),
                    companion = folder.write("d/b.positions.npy", "c");
  EXPECT_THAT(names(list(paths({folder.path("d")}), "tokens").of(Split::train)), ElementsAre("b.npy"));
  EXPECT_THAT(message_of([&] {
                list(paths({array, text}), "tokens");
              }),
              HasSubstr("a.txt: is not a file of modality tokens (.npy)"));
  EXPECT_THAT(message_of([&] { list(paths({companion}), "tokens"); }), HasSubstr("b.positions.npy: is not"));
  EXPECT_THAT(message_of([&] { list(paths({array, array}), "tokens"); }), HasSubstr("is the same file as"));
  EXPECT_THAT(message_of([&] {
                list(paths({folder.path("d"), array}), "tokens");
              }),
              HasSubstr("is the same file as"));
  const FileCheck all_odd = [](const std::vector<ListedFile>& files) {
    return std::vector<std::string>(files.size(), "is odd");
  };
  EXPECT_THAT(message_of([&] { list_splits(paths({array}), find_modality("tokens"), all_odd); }),
              HasSubstr("data.train: " + array + ": is odd"));
}

}  // namespace
}  // namespace perceiver
