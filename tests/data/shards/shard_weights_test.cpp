// Which documents are drawn from shards: known values, which a run that is resumed relies on.
#include "data/shards/shard_weights.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <array>
#include <nlohmann/json.hpp>

#include "data/arrays/npy.h"
#include "data/batches/crops.h"
#include "data/shards/shard_build.h"
#include "data/shards/shard_dataset.h"
#include "data/shards/shard_inputs.h"
#include "io/atomic_file.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

/// 300 documents of 1 to 120 tokens in shards of about 500.
void write_shards(const TempFolder& folder) {
  RandomStream random(8, RandomPurpose::sampling);
  for (int i = 0; i < 300; ++i) {
    std::vector<int32_t> values(1 + random.below(i % 3 == 0 ? 12 : 120));
    for (size_t j = 0; j < values.size(); ++j) values[j] = static_cast<int32_t>((i * 31 + j) % 256);
    folder.write(fmt::format("in/{:03}.npy", i), write_npy(values, {static_cast<int64_t>(values.size())}));
  }
  const ModalityKind& kind = find_modality("tokens");
  const auto modality = kind.open(ModalityOptions(kind, {}));
  SplitOptions split;
  split.validation_fraction = 0.1;
  const SplitListing inputs = find_inputs(folder.path("in"), kind, split);
  BuildOptions options;
  options.shard_tokens = 500;
  build_shards(inputs.files, inputs.skipped, kind, *modality, folder.path("out"), options);
}

struct Drawn {
  std::vector<int64_t> documents;
  int64_t mixed = 0;  ///< of everything about 2000 crops
};

Drawn draw(const Dataset& data, int64_t columns, int64_t predicted) {
  const CropSampler sampler(data, Split::train, columns, predicted);
  Drawn drawn;
  for (int64_t k = 0; k < 2000; ++k) {
    const Row row = sampler.crop(5, 7, k);
    if (k < 6) drawn.documents.push_back(row.document);
    for (const int64_t value : {row.document, row.first, row.count, row.scored})
      drawn.mixed = (drawn.mixed * 31 + value) % 1000000007;
  }
  return drawn;
}

constexpr struct {
  int64_t predicted;
  std::array<int64_t, 6> documents;
  int64_t mixed;
} kKnown[] = {{1, {194, 207, 40, 76, 93, 177}, 337224406},    {2, {194, 207, 40, 76, 93, 177}, 159378664},
              {8, {1, 122, 215, 166, 195, 218}, 267857520},   {11, {53, 232, 182, 9, 179, 135}, 968788837},
              {64, {162, 183, 130, 40, 133, 195}, 869091647}, {100, {36, 26, 9, 63, 222, 167}, 896729143}};

void expect_known(const Dataset& data) {
  for (const auto& known : kKnown) {
    const Drawn drawn = draw(data, 128, known.predicted);
    EXPECT_THAT(drawn.documents, testing::ElementsAreArray(known.documents)) << known.predicted;
    EXPECT_EQ(drawn.mixed, known.mixed) << known.predicted;
  }
}

std::string summary_of(const TempFolder& folder) {
  return read_file(folder.path("out/summary.json"), 1 << 20);
}

// Sums of powers of two are in the summary, others are counted; both were once counted in one table.
TEST(ShardWeights, DrawTheSameExamplesAsEver) {
  const TempFolder folder;
  write_shards(folder);
  expect_known(*ShardDataset::open(folder.path("out"), {}));
}

TEST(ShardWeights, DrawTheSameFromFoldersOfEarlierVersions) {
  const TempFolder folder;
  write_shards(folder);
  const uint64_t fingerprint = ShardDataset::open(folder.path("out"), {})->fingerprint();
  nlohmann::ordered_json summary = nlohmann::ordered_json::parse(summary_of(folder));
  for (auto& shard : summary["shards"])
    for (const char* key : {"split", "documents", "tokens", "content", "weights"}) shard.erase(key);
  folder.write("out/summary.json", summary.dump());
  const auto data = ShardDataset::open(folder.path("out"), {});
  EXPECT_EQ(data->fingerprint(), fingerprint);
  expect_known(*data);
}

TEST(ShardWeights, AreThoseOfATable) {
  const TempFolder folder;
  write_shards(folder);
  const auto data = ShardDataset::open(folder.path("out"), {});
  for (const Split split : {Split::train, Split::validation}) {
    EXPECT_EQ(data->tokens(split), data->Dataset::tokens(split));
    for (const int64_t least : {1, 7, 32, 1 << 20, 1 << 21}) {
      const auto weights = data->weights(split, least), table = data->Dataset::weights(split, least);
      ASSERT_EQ(weights->total(), table->total());
      for (uint64_t i = 0; i < 200; ++i) {
        const uint64_t drawn = i * (weights->total() - 1) / 199;
        ASSERT_EQ(weights->find(drawn), table->find(drawn));
      }
      EXPECT_THROW(weights->find(weights->total()), Error);
    }
  }
}

TEST(ShardWeights, ManyDocumentsInAShard) {  // more than a block of them
  const ModalityKind& kind = find_modality("tokens");
  const auto modality = kind.open(ModalityOptions(kind, {}));
  ShardBuilder builder(describe_shard("tokens", *modality, "train"));
  for (int i = 0; i < 10000; ++i)
    builder.add(
        "a", {.ids = std::vector<int32_t>(static_cast<size_t>(1 + i % 7), 3), .positions = {}, .units = 1});
  ShardSet shards;
  shards.add(ShardFile::parse(builder.bytes(), "memory"));
  for (const int64_t least : {3, 4}) {
    const ShardWeights weights(shards, least, 1);  // EOS
    WeightTable table(10000);
    for (int i = 0; i < 10000; ++i) table.add(static_cast<uint64_t>(std::max<int64_t>(least, 2 + i % 7)));
    ASSERT_EQ(weights.total(), table.total());
    for (uint64_t drawn = 0; drawn < table.total(); drawn += 17)
      ASSERT_EQ(weights.find(drawn), table.find(drawn));
  }
}

TEST(ShardWeights, ASummaryThatLiesIsFoundWhenItIsUsed) {
  const TempFolder folder;
  write_shards(folder);
  nlohmann::ordered_json summary = nlohmann::ordered_json::parse(summary_of(folder));
  summary["shards"][1]["weights"][3] = 5 + summary["shards"][1]["weights"][3].get<int64_t>();
  folder.write("out/summary.json", summary.dump());
  const auto data = ShardDataset::open(folder.path("out"), {});
  EXPECT_THAT(message_of([&] { draw(*data, 128, 8); }),
              testing::AllOf(testing::HasSubstr("train-00001"), testing::HasSubstr("summary.json")));
  EXPECT_NO_THROW(draw(*data, 128, 7));
}

}  // namespace
}  // namespace perceiver
