#include "io/checksum.h"

#include <gtest/gtest.h>

#include "io/atomic_folder.h"
#include "tests/support/files_test.h"

namespace perceiver {
namespace {

using ChecksumTest = testing::FilesTest;

TEST_F(ChecksumTest, FileAndPiecesAgreeWithTheReferenceValue) {
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
