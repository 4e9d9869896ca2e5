#include "data/shards/shard_builder.h"
#include "data/shards/shard_file.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cstring>
#include <set>

#include "data/shards/shard_format.h"
#include "io/checksum.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::AllOf;
using testing::HasSubstr;

ShardDescription description(int64_t vocabulary = 259, bool stored = false) {
  ShardDescription d;
  d.modality = "tokens";
  d.tokenizer = "tokens\n{}";
  d.split = "validation";
  d.unit = "token";
  d.vocabulary = vocabulary;
  d.ends = false;
  if (!stored) return d;
  d.positions = PositionKind::stored;
  d.axes = 2;
  d.position_sizes = {9, 70000};
  return d;
}

TokenSequence sequence(std::vector<int32_t> ids, std::vector<int32_t> positions = {}) {
  TokenSequence s;
  s.units = static_cast<int64_t>(ids.size()) * 2;
  s.words = 3;
  s.ids = std::move(ids);
  s.positions = std::move(positions);
  return s;
}

ShardBuilder example(int64_t vocabulary = 259, bool stored = false) {
  ShardBuilder builder(description(vocabulary, stored));
  const auto positions = [&](std::vector<int32_t> some) { return stored ? some : std::vector<int32_t>(); };
  builder.add("a", sequence({3, 4, 5}, positions({1, 2, 3, 4, 8, 69999})));
  builder.add("folder/b", sequence({static_cast<int32_t>(vocabulary - 1)}, positions({7, 5})));
  builder.skip({"c", "is empty"});
  return builder;
}

std::vector<int32_t> ids(const ShardFile& shard, int64_t document) {
  std::vector<int32_t> out(static_cast<size_t>(shard.document_tokens(document)));
  shard.read(document, 0, shard.document_tokens(document), out.data());
  return out;
}

/// The checksum of the header as it is now, so that what a header says is tested and not its checksum.
void seal(std::vector<std::byte>& file) {
  shard_format::Preamble preamble;
  std::memcpy(&preamble, file.data(), sizeof preamble);
  Checksum checksum;
  checksum.update(std::span(file).subspan(sizeof preamble, preamble.header_bytes));
  preamble.header_checksum = checksum.digest();
  std::memcpy(file.data(), &preamble, sizeof preamble);
}

/// The file with a part of its header replaced by a text of the same length.
std::vector<std::byte> altered(std::vector<std::byte> file, const std::string& from, const std::string& to) {
  EXPECT_EQ(from.size(), to.size());
  const auto* begin = reinterpret_cast<const char*>(file.data());
  const size_t at = std::string_view(begin, file.size()).find(from);
  EXPECT_NE(at, std::string_view::npos) << from;
  std::memcpy(file.data() + at, to.data(), to.size());
  seal(file);
  return file;
}

TEST(Shard, HoldsWhatWasAdded) {
  for (const int64_t vocabulary : {259, 65536, 65537, 1 << 20}) {
    for (const bool stored : {false, true}) {
      const ShardFile shard = ShardFile::parse(example(vocabulary, stored).bytes(), "memory");
      EXPECT_EQ(shard.documents(), 2);
      EXPECT_EQ(shard.tokens(), 4);
      EXPECT_EQ(ids(shard, 0), (std::vector<int32_t>{3, 4, 5}));
      EXPECT_EQ(ids(shard, 1), (std::vector<int32_t>{static_cast<int32_t>(vocabulary - 1)}));
      EXPECT_EQ(shard.document_name(0), "a");
      EXPECT_EQ(shard.document_name(1), "folder/b");
      EXPECT_EQ(shard.document_units(0), 6);
      EXPECT_EQ(shard.document_words(1), 3);
      const ShardDescription& d = shard.description();
      EXPECT_EQ(d.modality, "tokens");
      EXPECT_EQ(d.tokenizer, "tokens\n{}");
      EXPECT_EQ(d.split, "validation");
      EXPECT_EQ(d.vocabulary, vocabulary);
      EXPECT_FALSE(d.ends);
      EXPECT_EQ(d.skipped, (std::vector<FileRemark>{{"c", "is empty"}}));
      EXPECT_NO_THROW(shard.verify());
      if (!stored) continue;
      std::vector<int32_t> positions(4);
      shard.read_positions(0, 1, 2, positions.data());
      EXPECT_EQ(positions, (std::vector<int32_t>{3, 4, 8, 69999}));
    }
  }
}

TEST(Shard, HeadersOfEarlierVersionsHaveNoRepairs) {
  ShardHeader header{
      .description = {
          .modality = "tokens", .tokenizer = "t", .split = "train", .unit = "token", .vocabulary = 9}};
  header.description.repaired = {{"a", "has no end"}};
  std::string text = write_shard_header(header);
  EXPECT_EQ(parse_shard_header(text, "x").description.repaired, header.description.repaired);
  const std::string field = R"("repaired":[{"path":"a","repair":"has no end"}],)";
  ASSERT_NE(text.find(field), std::string::npos);
  text.erase(text.find(field), field.size());
  EXPECT_TRUE(parse_shard_header(text, "x").description.repaired.empty());
}

TEST(Shard, ReadsParts) {
  const ShardFile shard = ShardFile::parse(example().bytes(), "memory");
  std::vector<int32_t> two(2);
  shard.read(0, 1, 2, two.data());
  EXPECT_EQ(two, (std::vector<int32_t>{4, 5}));
  EXPECT_THROW(shard.read(0, 2, 2, two.data()), Error);
  EXPECT_THROW(shard.read(2, 0, 1, two.data()), Error);
}

TEST(Shard, FileAndMemoryAreTheSame) {
  const TempFolder folder;
  {
    OutputFile file(folder.path("x.shard"));
    example().write(file);
    file.finish();
  }
  const ShardFile shard = ShardFile::open(folder.path("x.shard"));
  EXPECT_EQ(ids(shard, 0), (std::vector<int32_t>{3, 4, 5}));
  EXPECT_EQ(shard.fingerprint(), ShardFile::parse(example().bytes(), "memory").fingerprint());
  EXPECT_EQ(shard.file_bytes(), static_cast<int64_t>(example().bytes().size()));
}

TEST(Shard, AnEmptyOneIsWhole) {
  const ShardFile shard = ShardFile::parse(ShardBuilder(description()).bytes(), "memory");
  EXPECT_EQ(shard.documents(), 0);
  EXPECT_NO_THROW(shard.verify());
}

TEST(Shard, EveryTruncationIsOneClearError) {
  const std::vector<std::byte> whole = example(70000, true).bytes();
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string message = message_of([&] {
      ShardFile::parse(std::vector<std::byte>(whole.begin(), whole.begin() + static_cast<int64_t>(size)),
                       "data/x.shard");
    });
    EXPECT_THAT(message, AllOf(HasSubstr("data/x.shard: byte "), testing::Not(HasSubstr("\n"))));
  }
  std::vector<std::byte> longer = whole;
  longer.push_back(std::byte{0});
  EXPECT_THAT(message_of([&] { ShardFile::parse(longer, "x"); }), HasSubstr("truncated or extended"));
}

// Padding between sections is the one place where a change matters to nobody.
TEST(Shard, EveryChangedByteIsFound) {
  const std::vector<std::byte> whole = example(259, true).bytes();
  std::set<size_t> unnoticed;
  for (size_t i = 0; i < whole.size(); ++i) {
    std::vector<std::byte> damaged = whole;
    damaged[i] ^= std::byte{0x10};
    try {
      ShardFile::parse(damaged, "x").verify();
      unnoticed.insert(i);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::user);
      EXPECT_THAT(error.what(), HasSubstr("x: byte "));
    }
  }
  for (const size_t i : unnoticed) EXPECT_EQ(whole[i], std::byte{0}) << i;
  EXPECT_LT(unnoticed.size(), 8 * 64u + 28);
}

TEST(Shard, VerifyNamesTheSection) {
  std::vector<std::byte> damaged = example().bytes();
  const auto* begin = reinterpret_cast<const char*>(damaged.data());
  const size_t names = std::string_view(begin, damaged.size()).find("afolder/b");
  ASSERT_NE(names, std::string_view::npos);
  damaged[names] = std::byte{'x'};
  const ShardFile shard = ShardFile::parse(damaged, "x.shard");
  EXPECT_THAT(message_of([&] { shard.verify(); }),
              AllOf(HasSubstr(fmt::format("byte {}: section names", names)), HasSubstr("checksum")));
}

TEST(Shard, HeadersThatLieAreRefused) {
  const std::vector<std::byte> file = example().bytes();
  const auto error = [&](const std::string& from, const std::string& to) {
    return message_of([&] { ShardFile::parse(altered(file, from, to), "x"); });
  };
  EXPECT_THAT(error("\"tokens\":4", "\"tokens\":5"), HasSubstr("section tokens 8 bytes"));
  EXPECT_THAT(error("\"tokens\":4", "\"tokens\":1"), HasSubstr("\"tokens\" is not an integer from 2"));
  EXPECT_THAT(error("\"documents\":2", "\"documents\":1"), HasSubstr("section ends"));
  EXPECT_THAT(error("\"documents\"", "\"dokuments\""), HasSubstr("\"documents\" is missing"));
  EXPECT_THAT(error("\"token_bytes\":2", "\"token_bytes\":3"), HasSubstr("token_bytes"));
  EXPECT_THAT(error("\"vocabulary\":259", "\"vocabulary\":003"), HasSubstr("JSON"));
  EXPECT_THAT(error("\"vocabulary\":259", "\"vocabulary\":  3"), HasSubstr("vocabulary"));
  EXPECT_THAT(error("\"positions\":\"counted\"", "\"positions\":\"stored!\""),
              HasSubstr("not one of counted"));
  EXPECT_THAT(error("\"positions\":\"counted\"", "\"positions\":\"stored\" "), HasSubstr("position_sizes"));
  EXPECT_THAT(error("\"axes\":1", "\"axes\":2"), HasSubstr("position_sizes"));
  EXPECT_THAT(error("\"offset\":64,", "\"offset\":65,"), HasSubstr("multiple of 64"));
  EXPECT_THAT(error("\"ends\":false", "\"ends\":12345"), HasSubstr("neither true nor false"));
}

TEST(Shard, SectionsBeyondTheFileAreRefused) {
  const std::vector<std::byte> file = example().bytes();
  EXPECT_THAT(message_of([&] { ShardFile::parse(altered(file, "\"offset\":320", "\"offset\":960"), "x"); }),
              HasSubstr("section name_ends of 16 bytes does not fit"));
}

TEST(Shard, DocumentsOutOfOrderAreRefused) {
  std::vector<std::byte> file = example().bytes();
  const uint64_t three = 3, four = 4;  // the ends of the two documents, side by side
  std::vector<std::byte> ends(16);
  std::memcpy(ends.data(), &three, 8);
  std::memcpy(ends.data() + 8, &four, 8);
  const auto at = std::search(file.begin(), file.end(), ends.begin(), ends.end());
  ASSERT_NE(at, file.end());
  const uint64_t wrong[] = {4, 3, 0, uint64_t{1} << 63};
  for (const uint64_t end : wrong) {
    std::vector<std::byte> damaged = file;
    std::memcpy(damaged.data() + (at - file.begin()), &end, 8);
    const ShardFile shard = ShardFile::parse(damaged, "x");
    if (end == 3) {
      EXPECT_EQ(ids(shard, 1).size(), 1u);
      continue;
    }
    const std::string expected =
        fmt::format("x: byte {}: ends", end == 4 ? at - file.begin() + 8 : at - file.begin());
    std::vector<int64_t> lengths(2);
    EXPECT_THAT(message_of([&] {
                  ids(shard, 0);
                  ids(shard, 1);
                }),
                HasSubstr(expected));
    EXPECT_THAT(message_of([&] { shard.lengths(0, lengths); }), HasSubstr(expected));
  }
}

TEST(Shard, GivesManyLengthsAtOnce) {
  ShardBuilder builder(description());
  for (int i = 1; i <= 6; ++i) builder.add("a", sequence(std::vector<int32_t>(static_cast<size_t>(i), 3)));
  const ShardFile shard = ShardFile::parse(builder.bytes(), "memory");
  std::vector<int64_t> lengths(3);
  shard.lengths(0, lengths);
  EXPECT_EQ(lengths, (std::vector<int64_t>{1, 2, 3}));
  shard.lengths(3, lengths);
  EXPECT_EQ(lengths, (std::vector<int64_t>{4, 5, 6}));
  EXPECT_THROW(shard.lengths(4, lengths), Error);
}

TEST(Shard, WhatIsNoShardIsNamedSo) {
  const TempFolder folder;
  EXPECT_THAT(message_of([&] { ShardFile::open(folder.write("a", std::string(100, 'a'))); }),
              HasSubstr("byte 0: does not begin with 'PERCSHRD'"));
  EXPECT_THAT(message_of([&] { ShardFile::open(folder.write("b", "")); }),
              HasSubstr("byte 0: the file ends here"));
  std::vector<std::byte> file = example().bytes();
  file[8] = std::byte{9};
  EXPECT_THAT(message_of([&] { ShardFile::parse(file, "x"); }), HasSubstr("version 9"));
}

TEST(ShardBuilder, RefusesWhatAModalityMustNotMake) {
  ShardBuilder builder(description());
  EXPECT_THROW(builder.add("x", sequence({2})), Error);
  EXPECT_THROW(builder.add("x", sequence({259})), Error);
  EXPECT_THROW(builder.add("x", sequence({})), Error);
  EXPECT_THROW(builder.add("x", sequence({3}, {1, 1})), Error);
  ShardBuilder stored(description(259, true));
  EXPECT_THROW(stored.add("x", sequence({3}, {1})), Error);
  EXPECT_THROW(stored.add("x", sequence({3}, {0, 1})), Error);
  EXPECT_THROW(stored.add("x", sequence({3}, {9, 1})), Error);
}

}  // namespace
}  // namespace perceiver
