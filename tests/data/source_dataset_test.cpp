#include "data/source_dataset.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>

#include "data/batches/rows.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Sequences = std::vector<std::vector<int32_t>>;

DataFormat format_of(int64_t vocabulary) {
  DataFormat format;
  format.vocabulary = vocabulary;
  return format;
}

SourceDataset dataset(const DataFormat& format, Sequences train, const DataConfig& config = {}) {
  Documents documents;
  documents.train = std::move(train);
  return SourceDataset(data_in_memory(format, std::move(documents)), config);
}

std::vector<int32_t> read(const Dataset& data, int64_t document, int64_t first, int64_t count) {
  std::vector<int32_t> ids(static_cast<size_t>(count), -1);
  data.read(Split::train, document, first, count, ids.data());
  return ids;
}

/// Documents with a row and a column each.
class Grid : public DataSource {
 public:
  DataFormat format() const override { return {.vocabulary = 5, .position_sizes = {4, 6}, .ends = false}; }
  int64_t documents(Split split) const override { return split == Split::train ? 1 : 0; }
  int64_t length(Split, int64_t) const override { return 8; }
  void read(Split, int64_t, int64_t first, int64_t count, int32_t* out) const override {
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<int32_t>(3 + (first + i) % 2);
  }
  void positions(Split, int64_t, int64_t first, int64_t count, int32_t* out) const override {
    for (int64_t i = first; i < first + count; ++i) {
      *out++ = static_cast<int32_t>(2 + i / 4);
      *out++ = static_cast<int32_t>(2 + i % 4 + shift);
    }
  }
  int shift = 0;
};

TEST(SourceDataset, AddsStartAndEnd) {
  const SourceDataset data = dataset(format_of(20), {{5, 6, 7}, {19}});
  EXPECT_EQ(data.vocabulary(), 20);
  EXPECT_EQ(data.modality(), "tokens");
  EXPECT_EQ(data.documents(Split::train), 2);
  EXPECT_EQ(data.documents(Split::test), 0);
  EXPECT_EQ(data.document_length(Split::train, 0), 5);
  EXPECT_EQ(data.scored_units(Split::train, 0), 3);
  EXPECT_THAT(read(data, 0, 0, 5), ElementsAre(2, 5, 6, 7, 1));
  EXPECT_THAT(read(data, 0, 1, 3), ElementsAre(5, 6, 7));
  EXPECT_THAT(read(data, 0, 3, 2), ElementsAre(7, 1));
  EXPECT_THAT(read(data, 1, 0, 1), ElementsAre(2));
  EXPECT_THAT(read(data, 1, 2, 1), ElementsAre(1));
}

TEST(SourceDataset, WithoutEndsTheLastIdIsTheLastTarget) {
  DataFormat format = format_of(20);
  format.ends = false;
  const SourceDataset data = dataset(format, {{5, 6, 7}});
  EXPECT_EQ(data.document_length(Split::train, 0), 4);
  EXPECT_THAT(read(data, 0, 0, 4), ElementsAre(2, 5, 6, 7));
}

TEST(SourceDataset, PositionsAreTheSourcesWithTheStartAtOne) {
  const SourceDataset data(std::make_shared<Grid>(), {});
  EXPECT_EQ(data.axes(), 2);
  EXPECT_THAT(data.position_sizes(), ElementsAre(4, 6));
  std::vector<int32_t> positions(6);
  data.positions(Split::train, 0, 0, 3, positions.data());
  EXPECT_THAT(positions, ElementsAre(1, 1, 2, 2, 2, 3));
  data.positions(Split::train, 0, 4, 3, positions.data());
  EXPECT_THAT(positions, ElementsAre(2, 5, 3, 2, 3, 3));
}

TEST(SourceDataset, MistakesInTheDataNameDocumentAndIndex) {
  for (const int32_t bad : {-1, 0, 1, 2, 20}) {
    const SourceDataset data = dataset(format_of(20), {{5}, {5, 6, bad, 7}});
    EXPECT_EQ(message_of([&] { read(data, 1, 2, 3); }),
              "train document 1: the id at index 2 is " + std::to_string(bad) + "; ids of data are 3 to 19");
  }
  const SourceDataset empty = dataset(format_of(20), {{5}, {}});
  EXPECT_THAT(message_of([&] { empty.tokens(Split::train); }),
              HasSubstr("train document 1: its length is 0; a document has at least one id"));
  const auto grid = std::make_shared<Grid>();
  grid->shift = 1;
  std::vector<int32_t> positions(16);
  EXPECT_EQ(message_of([&] { SourceDataset(grid, {}).positions(Split::train, 0, 0, 8, positions.data()); }),
            "train document 0: the position at index 3 is 6 on axis 1; it must be 1 to 5");
}

TEST(SourceDataset, WhatASourceDoesNotWriteIsNoticed) {
  const auto lazy = generated_data(format_of(20), 4, [](Split, int64_t, int32_t* out) { out[0] = 3; });
  EXPECT_THAT(message_of([&] { read(SourceDataset(lazy, {}), 7, 0, 4); }),
              HasSubstr("train document 7: the id at index 1 is 0"));
}

TEST(SourceDataset, FormatsThatMakeNoSenseAreRefused) {
  EXPECT_THAT(message_of([] { dataset(format_of(3), {{3}}); }), HasSubstr("the smallest vocabulary is 4"));
  EXPECT_THAT(message_of([] { dataset({.vocabulary = 5, .position_sizes = {2}}, {{3}}); }),
              HasSubstr("the smallest size is 3"));
  EXPECT_THAT(message_of([] { dataset({.modality = "text"}, {{3}}); }),
              HasSubstr("DataFormat::tokenizer must say how its ids were made"));
  EXPECT_THAT(message_of([] { dataset({.modality = "smell", .tokenizer = "x"}, {{3}}); }),
              HasSubstr("smell"));
  EXPECT_THAT(
      message_of([] { dataset({.vocabulary = 300, .modality = "text", .tokenizer = "bytes"}, {{3}}); }),
      HasSubstr("DataFormat::vocabulary is 300, but the tokenizer's is 259"));
}

TEST(SourceDataset, ConfigurationsThatNameOtherDataAreRefused) {
  DataConfig config;
  config.validation = {"held_out.txt"};
  EXPECT_THAT(message_of([&] { dataset(format_of(9), {{3}}, config); }), HasSubstr("held_out.txt"));
  config = {};
  config.type = "music";
  EXPECT_THAT(message_of([&] { dataset(format_of(9), {{3}}, config); }), HasSubstr("data.type is music"));
}

TEST(SourceDataset, TakesTheFormatOfItsTokenizer) {
  const SourceDataset data = dataset({.modality = "text", .tokenizer = "bytes"}, {{3 + 'a', 3 + 'b'}});
  EXPECT_EQ(data.vocabulary(), 259);
  EXPECT_EQ(data.modality(), "text");
  EXPECT_EQ(data.tokenizer(), "bytes");
  EXPECT_EQ(data.unit(), "byte");
}

TEST(SourceDataset, FingerprintsTellContentOrderAndLimits) {
  const uint64_t one = dataset(format_of(9), {{3, 4}, {5}}).fingerprint();
  EXPECT_NE(one, 0u);
  EXPECT_EQ(one, dataset(format_of(9), {{3, 4}, {5}}).fingerprint());
  EXPECT_NE(one, dataset(format_of(9), {{3, 4}, {6}}).fingerprint());
  EXPECT_NE(one, dataset(format_of(9), {{5}, {3, 4}}).fingerprint());
  EXPECT_NE(one, dataset(format_of(9), {{3}, {4, 5}}).fingerprint());
  EXPECT_NE(one, dataset(format_of(10), {{3, 4}, {5}}).fingerprint());
  EXPECT_EQ(SourceDataset(std::make_shared<Grid>(), {}).fingerprint(), 0u);
}

TEST(SourceDataset, GeneratedDataHaveNoEnd) {
  const auto source = generated_data(format_of(9), 3, [](Split split, int64_t document, int32_t* out) {
    std::fill_n(out, 3, static_cast<int32_t>(3 + document % 2 + (split == Split::validation ? 2 : 0)));
  });
  const SourceDataset data(source, {});
  EXPECT_TRUE(data.unbounded());
  EXPECT_THAT(read(data, 1001, 0, 5), ElementsAre(2, 4, 4, 4, 1));
  std::vector<int32_t> ids(2);
  data.read(Split::validation, 0, 1, 2, ids.data());
  EXPECT_THAT(ids, ElementsAre(5, 5));
  EXPECT_THAT(message_of([&] { generated_data(format_of(9), 0, nullptr); }), HasSubstr("at least one"));
}

}  // namespace
}  // namespace perceiver
