#include "data/shards/shard_dataset.h"

#include <gmock/gmock.h>

#include "data/arrays/npy.h"
#include "data/batches/crops.h"
#include "data/sample_files.h"
#include "data/shards/shard_build.h"
#include "data/shards/shard_file.h"
#include "data/shards/shard_inputs.h"
#include "data/text/text_dataset.h"
#include "eval/evaluator.h"
#include "io/atomic_file.h"
#include "model/model_file.h"
#include "tests/support/fake_dataset.h"
#include "tests/support/tiny_run.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string npy(std::vector<int32_t> values) {
  const auto count = static_cast<int64_t>(values.size());
  return write_npy(values, {count});
}

std::vector<int32_t> tokens(const Dataset& data, Split split, int64_t document) {
  std::vector<int32_t> out(static_cast<size_t>(data.document_length(split, document)));
  data.read(split, document, 0, static_cast<int64_t>(out.size()), out.data());
  return out;
}

std::vector<int32_t> positions(const Dataset& data, int64_t document, int64_t first, int64_t count) {
  std::vector<int32_t> out(static_cast<size_t>(count * data.axes()));
  data.positions(Split::train, document, first, count, out.data());
  return out;
}

DataConfig raw(const TempFolder& folder, const std::string& type,
               std::map<std::string, std::string> options) {
  DataConfig config;
  config.type = type;
  config.options = std::move(options);
  config.train = {folder.path("in")};
  config.validation_fraction = 0;
  return config;
}

void build(const TempFolder& folder, const std::string& type, std::map<std::string, std::string> options,
           double validation = 0, int64_t shard_tokens = 4) {
  const ModalityKind& kind = find_modality(type);
  const auto modality = kind.open(ModalityOptions(kind, std::move(options)));
  SplitOptions split;
  split.validation_fraction = validation;
  BuildOptions build_options;
  build_options.shard_tokens = shard_tokens;
  const SplitListing inputs = find_inputs(folder.path("in"), kind, split);
  build_shards(inputs.files, inputs.skipped, kind, *modality, folder.path("shards"), build_options);
}

DataConfig shards(const TempFolder& folder) {
  DataConfig config;
  config.train = {folder.path("shards")};
  return config;
}

TEST(ShardDataset, DocumentsHaveStartAndEnd) {
  const TempFolder folder;
  folder.write("in/a.npy", npy({7, 8, 9}));
  folder.write("in/b.npy", npy({1}));
  folder.write("in/c.npy", npy({2, 2}));
  build(folder, "tokens", {{"values", "10"}});
  const auto data = open_dataset(shards(folder));
  EXPECT_EQ(data->modality(), "tokens");
  EXPECT_EQ(data->vocabulary(), 13);
  EXPECT_EQ(data->unit(), "token");
  ASSERT_EQ(data->documents(Split::train), 3);
  EXPECT_EQ(data->documents(Split::validation), 0);
  EXPECT_THAT(tokens(*data, Split::train, 0), ElementsAre(2, 10, 11, 12, 1));
  EXPECT_THAT(tokens(*data, Split::train, 1), ElementsAre(2, 4, 1));
  EXPECT_THAT(tokens(*data, Split::train, 2), ElementsAre(2, 5, 5, 1));
  EXPECT_EQ(data->document_name(Split::train, 1), "b.npy");
  EXPECT_EQ(data->scored_units(Split::train, 0), 3);
  // Every stretch of a document.
  const std::vector<int32_t> whole = tokens(*data, Split::train, 0);
  for (int64_t first = 0; first <= 5; ++first)
    for (int64_t count = 0; first + count <= 5; ++count) {
      std::vector<int32_t> part(static_cast<size_t>(count) + 2, -7);
      data->read(Split::train, 0, first, count, part.data() + 1);
      EXPECT_EQ(part.front(), -7);
      EXPECT_EQ(part.back(), -7);
      EXPECT_TRUE(std::equal(part.begin() + 1, part.end() - 1, whole.begin() + first));
    }
  EXPECT_THROW(data->document_length(Split::train, 3), Error);
}

TEST(ShardDataset, WithoutEndsThereIsNoEos) {
  const TempFolder folder;
  folder.write("in/a.npy", npy({7, 8}));
  build(folder, "tokens", {{"values", "10"}, {"ends", "false"}});
  const auto data = open_dataset(shards(folder));
  EXPECT_THAT(tokens(*data, Split::train, 0), ElementsAre(2, 10, 11));
}

TEST(ShardDataset, RawFilesAndShardsAreTheSameData) {
  const TempFolder folder;
  for (int i = 0; i < 12; ++i) folder.write("in/" + std::to_string(100 + i) + ".npy", npy({i, i + 1, i + 2}));
  build(folder, "tokens", {{"values", "20"}}, 0.25);
  DataConfig config = raw(folder, "tokens", {{"values", "20"}});
  config.validation_fraction = 0.25;
  const auto a = open_dataset(config), b = open_dataset(shards(folder));
  for (const Split split : {Split::train, Split::validation}) {
    ASSERT_EQ(a->documents(split), split == Split::train ? 9 : 3);
    ASSERT_EQ(b->documents(split), a->documents(split));
    for (int64_t d = 0; d < a->documents(split); ++d) {
      EXPECT_EQ(tokens(*a, split, d), tokens(*b, split, d));
      EXPECT_EQ(a->document_name(split, d), b->document_name(split, d));
    }
  }
  EXPECT_EQ(a->tokenizer(), b->tokenizer());
}

TEST(ShardDataset, StoredPositionsFollowTheDocument) {
  const TempFolder folder;
  folder.write("in/a.npy", npy({1, 2, 3}));
  folder.write("in/a.positions.npy", write_npy(std::vector<int32_t>{0, 5, 1, 4, 2, 3}, {3, 2}));
  build(folder, "tokens", {{"values", "10"}, {"position_values", "3,6"}});
  const auto data = open_dataset(shards(folder));
  EXPECT_EQ(data->axes(), 2);
  EXPECT_THAT(data->position_sizes(), ElementsAre(5, 8));
  EXPECT_THAT(positions(*data, 0, 0, 5), ElementsAre(1, 1, 2, 7, 3, 6, 4, 5, 1, 1));
  EXPECT_THAT(positions(*data, 0, 2, 2), ElementsAre(3, 6, 4, 5));
  EXPECT_THAT(positions(*data, 0, 0, 1), ElementsAre(1, 1));
  ModelConfig model;
  model.position_encoding = PositionEncoding::absolute;
  model.vocabulary = 13;
  model.position_sizes = {5, 7};
  EXPECT_THAT(message_of([&] { check_fits(*data, model); }), HasSubstr("set it to [5, 8]"));
  model.position_sizes = {5, 8};
  EXPECT_NO_THROW(check_fits(*data, model));
}

TEST(ShardDataset, SkippedFilesAreNoted) {
  const TempFolder folder;
  folder.write("in/a.npy", npy({1}));
  folder.write("in/b.npy", "damaged");
  const auto data = open_dataset(raw(folder, "tokens", {}));
  EXPECT_EQ(data->documents(Split::train), 1);
  ASSERT_EQ(data->notes().size(), 1u);
  EXPECT_THAT(data->notes()[0], testing::AllOf(HasSubstr("1 file was skipped"), HasSubstr("b.npy: byte 0")));
  ASSERT_EQ(data->skipped().size(), 1u);
  EXPECT_EQ(data->skipped()[0].path, "b.npy");
  DataConfig only_bad = raw(folder, "tokens", {});
  only_bad.train = {folder.path("in/b.npy")};
  EXPECT_THAT(message_of([&] { open_dataset(only_bad); }), HasSubstr("in/b.npy: byte 0"));
  folder.write("bad/b.npy", "damaged");
  only_bad.train = {folder.path("bad")};
  EXPECT_THAT(message_of([&] { open_dataset(only_bad); }),
              testing::AllOf(HasSubstr("data.train: no file can be used"), HasSubstr("b.npy: byte 0")));
}

TEST(OpenDataset, ShardsThatContradictAreRefused) {
  const TempFolder folder;
  folder.write("in/a.npy", npy({1}));
  build(folder, "tokens", {});
  DataConfig config = shards(folder);
  config.type = "audio";
  EXPECT_THAT(message_of([&] { open_dataset(config); }), HasSubstr("modality tokens"));
  config = shards(folder);
  config.options = {{"values", "99"}};
  EXPECT_THAT(message_of([&] { open_dataset(config); }), HasSubstr("values"));
  config = shards(folder);
  config.validation = {folder.path("in")};
  EXPECT_THAT(message_of([&] { open_dataset(config); }), HasSubstr("--set data.validation="));
  config.validation.clear();
  config.train.push_back(folder.path("in"));
  EXPECT_THAT(message_of([&] { open_dataset(config); }), HasSubstr("give no other path"));
  std::swap(config.train[0], config.train[1]);
  EXPECT_THAT(message_of([&] { open_dataset(config); }), HasSubstr("it can only be data.train, and alone"));
  config = raw(folder, "text", {{"tokeniser", "bytes"}});
  EXPECT_THAT(message_of([&] { open_dataset(config); }), HasSubstr("did you mean 'tokenizer'"));
}

TEST(OpenDataset, AShardOfAnotherBuildIsFound) {
  const TempFolder folder;
  folder.write("in/a.npy", npy({1, 2, 3, 4}));
  folder.write("in/b.npy", npy({5, 6, 7, 8}));
  build(folder, "tokens", {});
  const std::string other = read_file(folder.path("shards/train-00001-of-00002.shard"), 1 << 20);
  folder.write("shards/train-00000-of-00002.shard", other);
  EXPECT_THAT(message_of([&] { open_dataset(shards(folder)); }), HasSubstr("is not the shard listed in"));
  folder.write("shards/train-00000-of-00002.shard", other.substr(0, 200));
  EXPECT_THAT(message_of([&] { open_dataset(shards(folder)); }), HasSubstr("truncated"));
}

TEST(OpenDataset, TextShardsScoreAsTextFiles) {
  const TempFolder folder;
  folder.write("in/a.txt", "two words");
  folder.write("in/b.txt", "and three more");
  build(folder, "text", {});
  DataConfig config;
  config.train = {folder.path("in")};
  config.validation_fraction = 0;
  const auto files = open_dataset(config), data = open_dataset(shards(folder));
  EXPECT_NE(dynamic_cast<const TextDataset*>(files.get()), nullptr);
  for (int64_t d = 0; d < 2; ++d) {
    EXPECT_EQ(tokens(*files, Split::train, d), tokens(*data, Split::train, d));
    EXPECT_EQ(files->scored_units(Split::train, d), data->scored_units(Split::train, d));
    EXPECT_EQ(files->words(Split::train, d), 2 + d);
    EXPECT_EQ(data->words(Split::train, d), 2 + d);
  }
}

TEST(Trainer, TrainsOnPositionsOfManyAxesAndKeepsTheTokenizer) {
  const TempFolder folder;
  for (int i = 0; i < 4; ++i) {
    const std::string name = "in/" + std::to_string(i);
    folder.write(name + ".npy", npy({i, 1, 2, 3, 4, 5}));
    folder.write(name + ".positions.npy",
                 write_npy(std::vector<int32_t>{0, 0, 0, 1, 0, 2, 1, 0, 1, 1, 1, 2}, {6, 2}));
  }
  build(folder, "tokens", {{"values", "6"}, {"position_values", "2,3"}, {"ends", "false"}}, 0.25);
  Config config = tiny_config(3);
  config.data = shards(folder);
  config.model.context_length = 6;
  config.model.latents = 4;
  config.model.position_encoding = PositionEncoding::absolute;
  config.model.position_sizes = {4, 5};
  TrainerOptions options = run_options(folder.path("run"));
  const TrainResult result = Trainer(config, options).run();
  const LoadedModel loaded =
      load_model(result.checkpoint / "model.safetensors", DeviceContext::cpu(1), DType::f32);
  EXPECT_EQ(loaded.metadata.modality, "tokens");
  EXPECT_NO_THROW(restore_modality("tokens", loaded.metadata.tokenizer));
  const auto data = open_dataset(config.data);
  const EvaluationResult scored = evaluate(*loaded.model, *data, Split::validation, {});
  EXPECT_EQ(scored.tokens, 6);
  EXPECT_EQ(scored.units, 6);
  EXPECT_EQ(scored.unit, "token");
  EXPECT_EQ(scored.words, 0);
}

// A reader that repairs: text with a byte order mark.
TEST(ShardDataset, RepairsAreListedAndStrictSkipsThem) {
  const TempFolder folder;
  folder.write("in/a.txt", "plain");
  folder.write("in/b.txt", "\xEF\xBB\xBFmarked");
  folder.write("in/c.txt", std::string("z\0z", 3));
  for (const bool strict : {false, true}) {
    const ModalityKind& kind = find_modality("text");
    const auto modality = kind.open(ModalityOptions(kind, {}));
    SplitOptions split;
    split.validation_fraction = 0;
    const SplitListing inputs = find_inputs(folder.path("in"), kind, split);
    BuildOptions options;
    options.strict = strict;
    const std::string out = folder.path(strict ? "strict" : "shards");
    build_shards(inputs.files, inputs.skipped, kind, *modality, out, options);
    DataConfig config;
    config.train = {out};
    const auto data = open_dataset(config);
    EXPECT_EQ(data->documents(Split::train), strict ? 1 : 2);
    EXPECT_EQ(data->skipped().size(), strict ? 2u : 1u);
    EXPECT_EQ(data->repaired().size(), strict ? 0u : 1u);
    const FileRemark remark = strict ? data->skipped()[0] : data->repaired()[0];
    EXPECT_EQ(remark, (FileRemark{"b.txt", "starts with a byte order mark"}));
  }
}

TEST(ShardDataset, TheFingerprintIsOfTheContent) {
  const TempFolder folder;
  for (int i = 0; i < 6; ++i) folder.write("in/" + std::to_string(i) + ".npy", npy({i, 1}));
  build(folder, "tokens", {{"values", "20"}}, 0.25, 1 << 24);
  DataConfig config = raw(folder, "tokens", {{"values", "20"}});
  config.validation_fraction = 0.25;
  const uint64_t first = open_dataset(config)->fingerprint();
  EXPECT_EQ(open_dataset(shards(folder))->fingerprint(), first);
  config.seed = 2;  // another split
  EXPECT_NE(open_dataset(config)->fingerprint(), first);
  config.seed = 0;
  std::filesystem::rename(folder.path("in"), folder.path("elsewhere"));
  config.train = {folder.path("elsewhere")};
  EXPECT_EQ(open_dataset(config)->fingerprint(), first);
  config.options["values"] = "21";
  EXPECT_NE(open_dataset(config)->fingerprint(), first);
  config.options["values"] = "20";
  folder.write("elsewhere/3.npy", npy({4, 1}));
  EXPECT_NE(open_dataset(config)->fingerprint(), first);
}

TEST(ShardDataset, AFileThatVanishesIsSkipped) {
  const TempFolder folder;
  for (const char* name : {"a", "b", "c"}) folder.write(std::string("in/") + name + ".npy", npy({1}));
  const ModalityKind& kind = find_modality("tokens");
  const auto modality = kind.open(ModalityOptions(kind, {}));
  SplitOptions split;
  split.validation_fraction = 0;
  const SplitListing inputs = find_inputs(folder.path("in"), kind, split);
  std::filesystem::remove(folder.path("in/b.npy"));
  const ShardSummary summary = build_shards(inputs.files, {}, kind, *modality, folder.path("out"), {});
  ASSERT_EQ(summary.skipped.size(), 1u);
  EXPECT_EQ(summary.skipped[0], (FileRemark{"b.npy", "cannot be read: No such file or directory"}));
}

}  // namespace
}  // namespace perceiver
