#include "data/text/text_dataset.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "data/text/byte_tokenizer.h"
#include "perceiver/error.h"
#include "tests/support/data_paths.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr Split all_splits[] = {Split::train, Split::validation, Split::test};

std::string open_error(const DataConfig& config) {
  return message_of([&] { TextDataset::open(config); });
}

std::vector<int32_t> tokens(const Dataset& data, Split split, int64_t document) {
  std::vector<int32_t> out(data.document_length(split, document));
  data.read(split, document, 0, static_cast<int64_t>(out.size()), out.data());
  return out;
}

std::string text(const Dataset& data, Split split, int64_t document) {
  return ByteTokenizer().decode(tokens(data, split, document));
}

std::vector<std::string> texts(const Dataset& data, Split split) {
  std::vector<std::string> all;
  for (int64_t i = 0; i < data.documents(split); ++i) all.push_back(text(data, split, i));
  return all;
}

TEST(TextDataset, ADocumentIsSosBytesEos) {
  const TempFolder folder;
  const auto data = TextDataset::open(paths({folder.write("a.txt", "h\xC3\xA9")}));
  EXPECT_THAT(tokens(*data, Split::train, 0), ElementsAre(2, 'h' + 3, 0xC3 + 3, 0xA9 + 3, 1));
  EXPECT_EQ(data->document_length(Split::train, 0), 5);
  EXPECT_EQ(data->document_bytes(Split::train, 0), 3);
  EXPECT_EQ(data->scored_units(Split::train, 0), 3);
  EXPECT_EQ(data->documents(Split::validation), 0);
  EXPECT_EQ(data->vocabulary(), 259);
  EXPECT_EQ(make_tokenizer(data->tokenizer())->vocabulary(), 259);
}

TEST(TextDataset, EveryRangeIsAPartOfTheWhole) {
  const TempFolder folder;
  const auto data = TextDataset::open(paths({folder.write("a.txt", "0123456789")}));
  const std::vector<int32_t> whole = tokens(*data, Split::train, 0);
  for (int64_t first = 0; first <= 12; ++first) {
    for (int64_t count = 0; first + count <= 12; ++count) {
      std::vector<int32_t> part(count + 1, -7);
      data->read(Split::train, 0, first, count, part.data());
      EXPECT_TRUE(std::equal(part.begin(), part.end() - 1, whole.begin() + first)) << first << " " << count;
      EXPECT_EQ(part.back(), -7);
    }
  }
  int32_t token = 0;
  EXPECT_THROW(data->read(Split::train, 0, 12, 1, &token), Error);
  EXPECT_THROW(data->read(Split::train, 1, 0, 1, &token), Error);
}

TEST(TextDataset, PositionsCountFromOneInTheRow) {
  const TempFolder folder;
  const auto data = TextDataset::open(paths({folder.write("a.txt", "0123456789")}));
  std::vector<int32_t> positions(3);
  data->positions(Split::train, 0, 7, 3, positions.data());
  EXPECT_THAT(positions, ElementsAre(1, 2, 3));
}

TEST(TextDataset, FoldersAreReadDeeplyInOrderWithoutHiddenOrEmptyFiles) {
  const TempFolder folder;
  folder.write("b.txt", "B");
  folder.write("a/z.txt", "Z");
  folder.write("a/k/y.md", "Y");
  folder.write(".hidden", "no");
  folder.write(".git/c.txt", "no");
  folder.write("empty.txt", "");
  const std::string last =
      folder.write("../" + std::filesystem::path(folder.path()).filename().string() + "_x/.x", "X");
  const auto data = TextDataset::open(paths({folder.path(), last}));
  EXPECT_THAT(texts(*data, Split::train), ElementsAre("Y", "Z", "B", "X"));
  EXPECT_THAT(data->document_name(Split::train, 2), HasSubstr("b.txt"));
  std::filesystem::remove_all(std::filesystem::path(last).parent_path());
}

TEST(TextDataset, AFileNamedTwiceIsTakenOnce) {
  const TempFolder folder;
  const std::string a = folder.write("a.txt", "A");
  folder.write("b.txt", "B");
  std::filesystem::create_symlink(a, folder.path("c.txt"));
  const auto data = TextDataset::open(paths({a, folder.path(), folder.path()}));
  EXPECT_THAT(texts(*data, Split::train), ElementsAre("A", "B"));
}

TEST(TextDataset, SplitsByPath) {
  const TempFolder folder;
  folder.write("train/1.txt", "1");
  folder.write("train/2.txt", "2");
  folder.write("validation/3.txt", "3");
  DataConfig config = paths({folder.path("train")}, 0.5, 0);
  config.validation = {folder.path("validation")};
  config.test = {folder.write("4.txt", "4")};
  const auto data = TextDataset::open(config);
  EXPECT_THAT(texts(*data, Split::train), ElementsAre("1", "2"));
  EXPECT_THAT(texts(*data, Split::validation), ElementsAre("3"));
  EXPECT_THAT(texts(*data, Split::test), ElementsAre("4"));
  config.test = {folder.path("train/2.txt")};
  EXPECT_THAT(open_error(config), AllOf(HasSubstr("2.txt"), HasSubstr("data.train"), HasSubstr("data.test")));
}

TEST(TextDataset, OneDocumentIsCutByBytes) {
  const TempFolder folder;
  const std::string path = folder.write("a.txt", "0123456789abcdefghij");
  const auto data = TextDataset::open(paths({path}, 0.1, 0.2));
  EXPECT_THAT(texts(*data, Split::train), ElementsAre("0123456789abcd"));
  EXPECT_THAT(texts(*data, Split::validation), ElementsAre("ef"));
  EXPECT_THAT(texts(*data, Split::test), ElementsAre("ghij"));
  EXPECT_THAT(data->document_name(Split::validation, 0), HasSubstr("bytes 14 to 16"));
  EXPECT_THAT(texts(*TextDataset::open(paths({path}, 0.05, 0.05)), Split::train),
              ElementsAre("0123456789abcdefgh"));
}

TEST(TextDataset, TheCustomaryCutOfTenPercent) {
  const TempFolder
      folder;  // tiny Shakespeare: the first int(0.9 × 1115394) = 1003854 characters are for training
  const auto data = TextDataset::open(paths({folder.write("a.txt", std::string(1115394, 'x'))}, 0.1));
  EXPECT_EQ(data->document_bytes(Split::train, 0), 1003854);
  EXPECT_EQ(data->document_bytes(Split::validation, 0), 111540);
}

TEST(TextDataset, CutsFallBetweenCharacters) {
  const TempFolder folder;
  for (const std::string character : {"é", "€", "😀"}) {
    for (int prefix = 0; prefix < 5; ++prefix) {
      std::string whole(prefix, 'x');
      for (int i = 0; i < 12; ++i) whole += character;
      const auto data = TextDataset::open(paths({folder.write("a.txt", whole)}, 0.3, 0.3));
      std::string together;
      for (const Split split : all_splits) {
        const std::string part = text(*data, split, 0);
        EXPECT_NE(static_cast<uint8_t>(part[0]) & 0xC0, 0x80);
        together += part;
      }
      EXPECT_EQ(together, whole);
    }
  }
}

TEST(TextDataset, BytesThatAreNoUtf8AreCutAnywhere) {
  const TempFolder folder;
  DataConfig config = paths({folder.write("a.bin", std::string(100, '\x80'))}, 0.1);
  config.options["encoding"] = "bytes";
  const auto data = TextDataset::open(config);
  EXPECT_EQ(data->document_bytes(Split::train, 0), 90);
}

TEST(TextDataset, TooLittleToSplitIsAnError) {
  const TempFolder folder;
  EXPECT_THAT(open_error(paths({folder.write("a.txt", "é")}, 0.5)), HasSubstr("too few"));
  EXPECT_THAT(open_error(paths({folder.write("b/1", "1"), folder.write("b/2", "2")}, 0.1, 0.1)),
              HasSubstr("too few"));
}

/// `count` files "<i>.txt" holding their own names, in `folder`.
void write_many(const TempFolder& folder, const std::string& name, int count) {
  for (int i = 0; i < count; ++i) folder.write(name + "/" + std::to_string(i) + ".txt", std::to_string(i));
}

TEST(TextDataset, ManyDocumentsAreSplitWhole) {
  const TempFolder folder;
  write_many(folder, "here", 40);
  const auto data = TextDataset::open(paths({folder.path("here")}, 0.1, 0.2));
  EXPECT_EQ(data->documents(Split::validation), 4);
  EXPECT_EQ(data->documents(Split::test), 8);
  std::multiset<std::string> all;
  for (const Split split : all_splits) {
    for (const std::string& document : texts(*data, split)) all.insert(document);
  }
  EXPECT_EQ(all.size(), 40u);
  EXPECT_EQ(std::set<std::string>(all.begin(), all.end()).size(), 40u);
}

TEST(TextDataset, TheSplitDependsOnTheSeedAndNotOnThePlace) {
  const TempFolder folder;
  write_many(folder, "here", 40);
  write_many(folder, "there/deep", 40);
  DataConfig config = paths({folder.path("here")}, 0.25);
  const auto held_out = [&] { return texts(*TextDataset::open(config), Split::validation); };
  const std::vector<std::string> first = held_out();
  EXPECT_EQ(held_out(), first);
  config.train = {folder.path("there/deep/")};
  EXPECT_EQ(held_out(), first);
  config.seed = 1;
  EXPECT_NE(held_out(), first);
}

TEST(TextDataset, ASmallFractionIsAtLeastOneDocument) {
  const TempFolder folder;
  write_many(folder, "d", 5);
  const auto data = TextDataset::open(paths({folder.path("d")}, 0.01, 0.01));
  EXPECT_EQ(data->documents(Split::train), 3);
  EXPECT_EQ(data->documents(Split::validation), 1);
  EXPECT_EQ(data->documents(Split::test), 1);
}

TEST(TextDataset, SaysWhatIsWrongWithPathsAndFractions) {
  const TempFolder folder;
  const std::string a = folder.write("a.txt", "text");
  EXPECT_THAT(open_error(paths({})), HasSubstr("data.train"));
  EXPECT_THAT(open_error(paths({folder.path("none")})), AllOf(HasSubstr("data.train"), HasSubstr("none")));
  EXPECT_THAT(open_error(paths({a + "/b"})), HasSubstr("no such file"));
  EXPECT_THAT(open_error(paths({"/dev/null"})), HasSubstr("neither a file nor a folder"));
  folder.write("nothing/.x", "x");
  EXPECT_THAT(open_error(paths({folder.path("nothing")})), HasSubstr("no file with any text"));
  EXPECT_THAT(open_error(paths({folder.write("e.txt", "")})), HasSubstr("e.txt: is empty"));
  EXPECT_THAT(open_error(paths({a, a})), HasSubstr("is the same file as"));
  EXPECT_THAT(open_error(paths({a}, 1)), HasSubstr("data.validation_fraction"));
  EXPECT_THAT(open_error(paths({a}, -0.1)), HasSubstr("data.validation_fraction"));
  EXPECT_THAT(open_error(paths({a}, 0, std::nan(""))), HasSubstr("data.test_fraction"));
  EXPECT_THAT(open_error(paths({a}, 0.5, 0.5)), HasSubstr("nothing to train on"));
}

// 8 GiB that hold next to nothing on the disk: only what is read may cost memory or time.
TEST(TextDataset, AFileLargerThanMemoryCanBeOpened) {
  const TempFolder folder;
  const std::string path = folder.write("large.txt", "begin");
  constexpr int64_t size = int64_t{8} << 30;
  std::filesystem::resize_file(path, size);
  std::fstream(path, std::ios::in | std::ios::out | std::ios::binary).seekp(size - 3) << "end";
  DataConfig config = paths({path}, 0.5);
  config.options["encoding"] = "bytes";
  const auto data = TextDataset::open(config);
  EXPECT_EQ(data->document_bytes(Split::train, 0), size / 2);
  std::vector<int32_t> last(4);
  data->read(Split::validation, 0, data->document_length(Split::validation, 0) - 4, 4, last.data());
  EXPECT_THAT(last, ElementsAre('e' + 3, 'n' + 3, 'd' + 3, 1));
}

TEST(TextDataset, WhatIsNotTextIsSkippedAndListed) {
  const TempFolder folder;
  folder.write("in/a.txt", "h\xC3\xA9");
  folder.write("in/b.txt", "caf\xE9 au lait");
  folder.write("in/c.gz", "\x1F\x8B\x08 and so on");
  folder.write("in/d.txt", "\xEF\xBB\xBFmarked");
  const auto data = TextDataset::open(paths({folder.path("in")}));
  EXPECT_THAT(texts(*data, Split::train), ElementsAre("h\xC3\xA9", "marked"));
  EXPECT_EQ(data->document_name(Split::train, 1), folder.path("in/d.txt"));
  ASSERT_EQ(data->skipped().size(), 2u);
  EXPECT_EQ(data->skipped()[0].path, "b.txt");
  EXPECT_THAT(data->skipped()[0].remark, HasSubstr("is not UTF-8 text: byte 3 is E9"));
  EXPECT_THAT(data->skipped()[1].remark, HasSubstr("gzip"));
  EXPECT_THAT(data->repaired(), ElementsAre(FileRemark{"d.txt", "starts with a byte order mark"}));
  EXPECT_THAT(data->notes(), ElementsAre(HasSubstr("2 files were skipped; the first, b.txt: is not"),
                                         HasSubstr("1 file was repaired: d.txt: starts")));
  DataConfig config = paths({folder.path("in")});
  config.strict = true;
  EXPECT_EQ(TextDataset::open(config)->documents(Split::train), 1);
  EXPECT_EQ(TextDataset::open(config)->skipped().size(), 3u);
  config.strict = false;
  config.options["encoding"] = "bytes";
  EXPECT_EQ(TextDataset::open(config)->documents(Split::train), 4);
  EXPECT_EQ(text(*TextDataset::open(config), Split::train, 3), "\xEF\xBB\xBFmarked");
  EXPECT_THAT(
      open_error(paths({folder.path("in/b.txt")})),
      AllOf(HasSubstr("b.txt: is not UTF-8 text: byte 3 is E9"), HasSubstr("iconv -f LATIN1 -t UTF-8")));
}

TEST(TextDataset, AMarkedDocumentIsCutByTheBytesOfItsText) {
  const TempFolder folder;
  const auto data = TextDataset::open(paths({folder.write("a.txt",
                                                          "\xEF\xBB\xBF"
                                                          "0123456789")},
                                            0.2));
  EXPECT_THAT(texts(*data, Split::train), ElementsAre("01234567"));
  EXPECT_THAT(texts(*data, Split::validation), ElementsAre("89"));
}

TEST(TextDataset, TheFingerprintIsOfContentOrderAndSplit) {
  const TempFolder folder;
  write_many(folder, "here", 12);
  write_many(folder, "there", 12);
  const auto fingerprint = [](const DataConfig& config) { return TextDataset::open(config)->fingerprint(); };
  DataConfig config = paths({folder.path("here")}, 0.25);
  const uint64_t first = fingerprint(config);
  EXPECT_EQ(fingerprint(paths({folder.path("there")}, 0.25)), first);
  EXPECT_NE(fingerprint(paths({folder.path("here")}, 0.5)), first);
  config.seed = 1;
  EXPECT_NE(fingerprint(config), first);
  folder.write("there/3.txt", "x");
  EXPECT_NE(fingerprint(paths({folder.path("there")}, 0.25)), first);
  const std::string a = folder.path("here/1.txt"), b = folder.path("here/2.txt");
  EXPECT_NE(fingerprint(paths({a, b})), fingerprint(paths({b, a})));
  EXPECT_NE(fingerprint(paths({a, b})), 0u);
}

/// Bytes of files in this process's resident set.
int64_t resident_file_bytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    if (word != "RssFile:") continue;
    int64_t kib = 0;
    status >> kib;
    return kib * 1024;
  }
  return -1;
}

TEST(TextDataset, WhatHasBeenReadDoesNotStayInTheResidentSet) {
  const TempFolder folder;
  constexpr int64_t size = int64_t{128} << 20;
  const auto data = TextDataset::open(paths({folder.write("a.txt", std::string(size, 'x'))}));
  const int64_t before = resident_file_bytes();
  ASSERT_GE(before, 0);
  std::vector<int32_t> row(1 << 20);
  for (int64_t first = 0; first + 1 < size; first += 1 << 20)
    data->read(Split::train, 0, first, 1 << 20, row.data());
  EXPECT_LT(resident_file_bytes() - before, size / 8);
}

}  // namespace
}  // namespace perceiver
