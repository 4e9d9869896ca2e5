#include "io/zip_archive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/user_error.h"
#include "tests/support/zip_bytes.h"

namespace perceiver {
namespace {

using ::testing::HasSubstr;
using testing::little_endian;
using testing::zip_bytes;

ZipArchive parse(const std::string& file) {
  return ZipArchive::parse(std::as_bytes(std::span(file)), "a.zip");
}

std::string text(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

std::string error_of(const std::string& file) {
  return message_of([&] { parse(file); });
}

/// The first or last place of `part` in the file gets other bytes.
std::string with_first(std::string file, const std::string& part, size_t distance, const std::string& bytes) {
  return file.replace(file.find(part) + distance, bytes.size(), bytes);
}
std::string with_last(std::string file, const std::string& part, size_t distance, const std::string& bytes) {
  return file.replace(file.rfind(part) + distance, bytes.size(), bytes);
}

const std::string directory_mark = "PK\1\2";

TEST(ZipArchive, GivesStoredEntriesInPlace) {
  const std::string file = zip_bytes({{"a/x", "hello"}, {"a/empty", ""}});
  const ZipArchive archive = parse(file);
  ASSERT_EQ(archive.entries().size(), 2u);
  const ZipEntry* entry = archive.find("a/x");
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(reinterpret_cast<const char*>(archive.stored_bytes(*entry).data()),
            file.data() + file.find("hello"));
  EXPECT_EQ(text(archive.stored_bytes(*entry)), "hello");
  EXPECT_EQ(text(archive.read(*archive.find("a/empty"))), "");
  EXPECT_EQ(archive.find("x"), nullptr);
}

TEST(ZipArchive, InflatesCompressedEntries) {
  const std::string content = "some text, some text, and other text";
  const std::string file = zip_bytes({{"x", content, true}, {"nothing", "", true}});
  const ZipArchive archive = parse(file);
  EXPECT_FALSE(archive.find("x")->stored);
  EXPECT_EQ(text(archive.read(*archive.find("x"))), content);
  EXPECT_EQ(text(archive.read(*archive.find("nothing"))), "");
}

TEST(ZipArchive, FindsTheDirectoryBeforeAComment) {
  std::string file = zip_bytes({{"x", "hello"}});
  file.replace(file.size() - 2, 2, little_endian(3, 2));
  EXPECT_EQ(parse(file + "abc").entries().size(), 1u);
}

TEST(ZipArchive, RefusesWhatIsNoArchive) {
  EXPECT_THAT(error_of(""), HasSubstr("a.zip: no directory of a zip archive"));
  EXPECT_THAT(error_of("PK\3\4 and nothing more"), HasSubstr("truncated"));
  const std::string file = zip_bytes({{"x", "hello"}});
  EXPECT_THAT(error_of(file.substr(0, file.size() - 30)), HasSubstr("truncated"));
}

TEST(ZipArchive, RefusesSizesThatCannotBe) {
  const std::string stored = zip_bytes({{"x", "hello"}});
  // Both sizes in both places, so that they agree: past the end of the file.
  const std::string sizes = little_endian(5000, 4) + little_endian(5000, 4);
  const std::string longer = with_last(with_first(stored, "PK\3\4", 18, sizes), directory_mark, 20, sizes);
  EXPECT_THAT(error_of(longer), HasSubstr("entry 'x' ends past the end of the file"));
  // Inflated, a few bytes cannot become 4 GB: refused without allocating them.
  const std::string packed = zip_bytes({{"x", std::string(100, 'x'), true}});
  const std::string size = little_endian(0xfffffff0, 4);
  const std::string bomb = with_last(with_first(packed, "PK\3\4", 22, size), directory_mark, 24, size);
  EXPECT_THAT(error_of(bomb), HasSubstr("entry 'x' cannot have 4294967280 bytes"));
}

TEST(ZipArchive, RefusesContentThatInflatesToSomethingElse) {
  const std::string packed = zip_bytes({{"x", std::string(100, 'x'), true}});
  const auto read = [](const std::string& file) {
    const ZipArchive archive = parse(file);
    return message_of([&] { archive.read(archive.entries()[0]); });
  };
  for (const uint64_t size : {99, 101}) {
    const std::string bytes = little_endian(size, 4);
    EXPECT_THAT(read(with_last(with_first(packed, "PK\3\4", 22, bytes), directory_mark, 24, bytes)),
                HasSubstr("entry 'x' does not inflate"));
  }
  const std::string checksum = little_endian(1, 4);
  EXPECT_THAT(read(with_last(with_first(packed, "PK\3\4", 14, checksum), directory_mark, 16, checksum)),
              HasSubstr("entry 'x' does not inflate"));
}

TEST(ZipArchive, RefusesEncryptionAndOtherMethods) {
  const std::string file = zip_bytes({{"x", "hello"}});
  EXPECT_THAT(error_of(with_last(file, directory_mark, 8, little_endian(1, 2))),
              HasSubstr("entry 'x' of the zip archive is encrypted"));
  EXPECT_THAT(error_of(with_last(file, directory_mark, 10, little_endian(12, 2))),
              HasSubstr("compressed by method 12"));
}

TEST(ZipArchive, RefusesAHeaderThatTheDirectoryContradicts) {
  const std::string file = zip_bytes({{"x", "hello"}});
  EXPECT_THAT(error_of(with_first(file, "PK\3\4", 18, little_endian(4, 4))),
              HasSubstr("not what the directory says"));
}

}  // namespace
}  // namespace perceiver
