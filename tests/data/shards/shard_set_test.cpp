// Shards of a folder that are opened when they are read.
#include "data/shards/shard_set.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "data/arrays/npy.h"
#include "data/shards/shard_build.h"
#include "data/shards/shard_dataset.h"
#include "data/shards/shard_inputs.h"
#include "io/atomic_file.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::HasSubstr;

/// Six shards with a document each: document i has i + 1 tokens, of value i.
ShardSummary write_shards(const TempFolder& folder) {
  for (int i = 0; i < 6; ++i)
    folder.write(fmt::format("in/{}.npy", i),
                 write_npy(std::vector<int32_t>(static_cast<size_t>(i + 1), i), {i + 1}));
  const ModalityKind& kind = find_modality("tokens");
  const auto modality = kind.open(ModalityOptions(kind, {}));
  SplitOptions split;
  split.validation_fraction = 0;
  const SplitListing inputs = find_inputs(folder.path("in"), kind, split);
  BuildOptions options;
  options.shard_tokens = 1;
  return build_shards(inputs.files, inputs.skipped, kind, *modality, folder.path("out"), options);
}

std::string name_of(int shard) {
  return fmt::format("out/train-{:05}-of-00006.shard", shard);
}

std::string content_of_file(const TempFolder& folder, const std::string& name) {
  return read_file(folder.path(name), 1 << 20);
}

TEST(ShardSet, OpensWhatIsReadAndAtMostSoMany) {
  const TempFolder folder;
  const ShardSummary summary = write_shards(folder);
  ShardSet set(2);
  for (const ShardEntry& entry : summary.shards) set.add(folder.path("out/" + entry.file), entry, {});
  EXPECT_EQ(set.documents(), 6);
  EXPECT_EQ(set.tokens(), 21);
  EXPECT_EQ(set.open_files(), 0);
  const ShardSet::Place held = set.find(4);
  for (const int64_t document : {0, 3, 5, 3, 1, 2, 0}) {
    const ShardSet::Place place = set.find(document);
    EXPECT_EQ(place.document, 0);
    EXPECT_EQ(place.shard->document_tokens(0), document + 1);
    EXPECT_LE(set.open_files(), 2);
  }
  EXPECT_EQ(held.shard->document_tokens(0), 5);  // lives as long as it is held
  EXPECT_THROW(set.find(6), Error);
}

TEST(ShardSet, ADatasetOpensAShardWhenItIsRead) {
  const TempFolder folder;
  write_shards(folder);
  const auto data = ShardDataset::open(folder.path("out"), {});
  std::filesystem::remove(folder.path(name_of(3)));
  EXPECT_EQ(data->documents(Split::train), 6);
  EXPECT_EQ(data->document_length(Split::train, 2), 5);
  EXPECT_THAT(message_of([&] { data->document_length(Split::train, 3); }), HasSubstr(name_of(3)));
}

TEST(ShardSet, ShardsThatAreMissingOrCutAreFoundAtTheStart) {
  const TempFolder folder;
  write_shards(folder);
  const auto open = [&] { ShardDataset::open(folder.path("out"), {}); };
  const std::string whole = content_of_file(folder, name_of(4));
  folder.write(name_of(4), whole.substr(0, 300));
  EXPECT_THAT(message_of(open), testing::AllOf(HasSubstr(name_of(4)), HasSubstr("truncated")));
  std::filesystem::remove(folder.path(name_of(4)));
  EXPECT_THAT(message_of(open), HasSubstr(name_of(4)));
  folder.write(name_of(4), whole);
  EXPECT_NO_THROW(open());
}

// A summary of another folder, which fits by size.
TEST(ShardSet, AShardThatIsNotTheListedOneIsFoundWhenItIsRead) {
  const TempFolder folder;
  write_shards(folder);
  std::string changed = content_of_file(folder, name_of(4));
  const size_t at = changed.find("\"units\"");
  changed[at + 1] = 'U';
  folder.write(name_of(4), changed);
  const auto data = ShardDataset::open(folder.path("out"), {});
  EXPECT_THAT(message_of([&] { data->document_length(Split::train, 4); }), HasSubstr("damaged"));

  folder.write(name_of(4), content_of_file(folder, name_of(4)));
  nlohmann::ordered_json summary = nlohmann::ordered_json::parse(content_of_file(folder, "out/summary.json"));
  summary["shards"][2]["tokens"] = 30;
  folder.write("out/summary.json", summary.dump());
  const auto other = ShardDataset::open(folder.path("out"), {});
  EXPECT_THAT(message_of([&] { other->document_length(Split::train, 2); }), HasSubstr("summary.json"));
}

TEST(ShardSet, DamagedContentsOfASummaryAreRefused) {
  const TempFolder folder;
  write_shards(folder);
  const auto good = nlohmann::ordered_json::parse(content_of_file(folder, "out/summary.json"));
  const auto error = [&](const char* key, const nlohmann::ordered_json& value) {
    nlohmann::ordered_json summary = good;
    summary["shards"][1][key] = value;
    folder.write("out/summary.json", summary.dump());
    return message_of([&] { read_summary(folder.path("out")); });
  };
  EXPECT_THAT(error("split", "trial"), HasSubstr("\"split\" is 'trial'"));
  EXPECT_THAT(error("documents", -1), HasSubstr("\"documents\""));
  EXPECT_THAT(error("documents", 3), HasSubstr("cannot have 3 documents of 2 tokens"));
  EXPECT_THAT(error("content", "xyz"), HasSubstr("not a checksum"));
  EXPECT_THAT(error("weights", {1, 2}), HasSubstr("\"weights\""));
  EXPECT_THAT(error("weights", std::vector<int64_t>(21, -1)), HasSubstr("\"weights\""));
}

}  // namespace
}  // namespace perceiver
