#include <fmt/format.h>
#include <gmock/gmock.h>

#include <map>

#include "data/arrays/npy.h"
#include "data/audio/audio_file.h"
#include "data/shards/shard_build.h"
#include "data/shards/shard_file.h"
#include "data/shards/shard_inputs.h"
#include "distributed/together.h"
#include "io/atomic_file.h"
#include "tests/support/temp_folder.h"
#include "tests/support/thread_world.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

/// Sixty sequences, three of which are damaged and one empty, a broken link, and a file of another kind.
void write_inputs(const TempFolder& folder, const std::string& below = "") {
  for (int i = 0; i < 60; ++i) {
    std::vector<int32_t> values(static_cast<size_t>(10 + i));
    for (size_t j = 0; j < values.size(); ++j) values[j] = static_cast<int32_t>((i * 31 + j) % 256);
    std::string file = write_npy(values, {static_cast<int64_t>(values.size())});
    if (i % 25 == 7) file.resize(file.size() - 1);
    if (i == 20) file.clear();
    folder.write(fmt::format("in/{}{:02}.npy", below, i), file);
  }
  folder.write("in/" + below + "README.txt", "not an array");
  fs::create_symlink("nowhere", folder.path("in/" + below + "link.npy"));
}

ShardSummary build(const TempFolder& folder, const std::string& out, int workers = 2,
                   int64_t shard_tokens = 500, std::map<std::string, std::string> options = {},
                   BuildProgress* last = nullptr, World* world = nullptr) {
  const ModalityKind& kind = find_modality("tokens");
  const auto modality = kind.open(ModalityOptions(kind, std::move(options)));
  SplitOptions split;
  split.test = "*5.npy";
  split.validation_fraction = 0.1;
  const SplitListing inputs = find_inputs(folder.path("in"), kind, split);
  BuildOptions build_options;
  build_options.workers = workers;
  build_options.shard_tokens = shard_tokens;
  build_options.world = world;
  build_options.progress = [&](const BuildProgress& p) {
    if (last != nullptr) *last = p;
  };
  return build_shards(inputs.files, inputs.skipped, kind, *modality, folder.path(out), build_options);
}

/// Names and contents of the files of a folder.
std::map<std::string, std::string> contents(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    files[entry.path().filename().string()] = read_file(entry.path(), 1 << 24);
  return files;
}

TEST(ShardFolder, IsTheSameWhateverTheNumberOfWorkers) {
  const TempFolder folder;
  write_inputs(folder);
  build(folder, "one", 1);
  const auto one = contents(folder.path("one"));
  EXPECT_GT(one.size(), 6u);
  for (const int workers : {2, 8}) {
    build(folder, fmt::format("w{}", workers), workers);
    EXPECT_EQ(contents(folder.path(fmt::format("w{}", workers))), one);
  }
}

TEST(ShardFolder, IsTheSameWhateverTheNumberOfRanks) {
  const TempFolder folder;
  write_inputs(folder);
  BuildProgress alone;
  const ShardSummary summary = build(folder, "one", 1, 500, {}, &alone);
  const auto one = contents(folder.path("one"));
  for (const int ranks : {1, 2, 3, 12}) {  // and more ranks than shards
    const std::string out = fmt::format("r{}", ranks);
    run_ranks(ranks, [&](World& world) {
      BuildProgress last;
      const ShardSummary mine = build(folder, out, 1, 500, {}, &last, &world);
      EXPECT_EQ(summary_text(mine), summary_text(summary));
      EXPECT_EQ(last.done.files, alone.done.files);
      EXPECT_EQ(last.done.tokens, alone.done.tokens);
      EXPECT_EQ(last.shards_done, alone.shards_done);
    });
    EXPECT_EQ(contents(folder.path(out)), one);
    run_ranks(ranks, [&](World& world) {  // again: all are verified and kept
      BuildProgress last;
      build(folder, out, 1, 500, {}, &last, &world);
      EXPECT_EQ(last.shards_reused, last.shards);
    });
  }
}

TEST(ShardFolder, WhatGoesWrongOnOneRankEndsAll) {
  const TempFolder folder;
  write_inputs(folder);
  folder.write("mine/thesis.txt", "years of work");
  run_ranks(3, [&](World& world) {  // on the leader
    const std::string message = message_of([&] { build(folder, "mine", 1, 500, {}, nullptr, &world); });
    EXPECT_THAT(message, HasSubstr("not empty"));
  });
  run_ranks(3, [&](World& world) {  // on another, which has other options
    const int64_t shard_tokens = world.rank() == 2 ? 600 : 500;
    EXPECT_THAT(message_of([&] { build(folder, "out", 1, shard_tokens, {}, nullptr, &world); }),
                AllOf(HasSubstr("the ranks differ in the files to build from"), HasSubstr("rank 2")));
  });
  EXPECT_FALSE(fs::exists(folder.path("out")));
}

// A rank whose shards are not where the leader's are: nothing may be left out silently.
TEST(ShardFolder, AnOutputThatIsNotSharedIsFound) {
  const TempFolder folder;
  write_inputs(folder);
  run_ranks(2, [&](World& world) {
    const std::string out = world.leads() ? "here" : "there";
    EXPECT_THAT(message_of([&] { build(folder, out, 1, 500, {}, nullptr, &world); }),
                HasSubstr("must be on a file system that all ranks share"));
  });
  EXPECT_FALSE(fs::exists(folder.path("here/summary.json")));
  EXPECT_FALSE(fs::exists(folder.path("there")));
}

TEST(ShardFolder, ABuildStopsWhenAskedAndGoesOn) {
  const TempFolder folder;
  write_inputs(folder);
  run_ranks(2, [&](World& world) {
    world.request_stop();
    EXPECT_THROW(build(folder, "out", 1, 500, {}, nullptr, &world), Cancelled);
  });
  run_ranks(2, [&](World& world) { build(folder, "out", 1, 500, {}, nullptr, &world); });
  build(folder, "one", 1);
  EXPECT_EQ(contents(folder.path("out")), contents(folder.path("one")));
}

TEST(ShardFolder, SummaryCountsEverything) {
  const TempFolder folder;
  write_inputs(folder);
  const ShardSummary summary = build(folder, "out");
  int64_t documents = 0, tokens = 0;
  for (const SplitCounts& counts : summary.splits) documents += counts.documents, tokens += counts.tokens;
  EXPECT_EQ(documents, 56);  // without 07, 20, 32 and 57
  EXPECT_EQ(tokens, 60 * 10 + 59 * 30 - 17 - 30 - 42 - 67);
  EXPECT_EQ(summary.splits[2].documents, 6);  // 05, 15, … 55
  EXPECT_EQ(summary.splits[1].documents, 4);  // a tenth of the other 53 files, of which one is damaged
  ASSERT_EQ(summary.skipped.size(), 6u);
  EXPECT_EQ(summary.skipped[0], (FileRemark{"20.npy", "is empty"}));
  EXPECT_EQ(summary.skipped[1], (FileRemark{"link.npy", "is a broken link to 'nowhere'"}));
  EXPECT_EQ(summary.skipped[2].path, "README.txt");
  EXPECT_THAT(summary.skipped[2].remark, HasSubstr("not a file of modality tokens"));
  EXPECT_THAT(summary.skipped[3].remark, HasSubstr("byte "));
  const ShardSummary read = read_summary(folder.path("out"));
  EXPECT_EQ(read.skipped, summary.skipped);
  EXPECT_EQ(read.splits[0].tokens, summary.splits[0].tokens);
  EXPECT_EQ(read.shards.size(), summary.shards.size());
  EXPECT_EQ(read.shards[0].fingerprint, summary.shards[0].fingerprint);
}

// What a killed build leaves: some shards, one of them perhaps half written under a temporary name, no
// summary.
TEST(ShardFolder, AKilledBuildGoesOn) {
  const TempFolder folder;
  write_inputs(folder);
  const ShardSummary summary = build(folder, "whole");
  ASSERT_GE(summary.splits[0].shards, 3);
  const auto whole = contents(folder.path("whole"));
  build(folder, "cut");
  fs::remove(folder.path("cut/summary.json"));
  const std::string lost = "cut/" + summary.shards[1].file, damaged = "cut/" + summary.shards[2].file;
  fs::remove(folder.path(lost));
  folder.write(lost + ".tmp-1", "half a shard");
  // A shard that is damaged is rebuilt, too.
  std::string bytes = read_file(folder.path(damaged), 1 << 24);
  bytes[bytes.size() / 2] = static_cast<char>(~bytes[bytes.size() / 2]);
  folder.write(damaged, bytes);
  EXPECT_THAT(message_of([&] { read_summary(folder.path("cut")); }), HasSubstr("not finished"));
  BuildProgress last;
  build(folder, "cut", 2, 500, {}, &last);
  EXPECT_EQ(contents(folder.path("cut")), whole);
  EXPECT_EQ(last.shards_reused, last.shards - 2);
  EXPECT_EQ(last.done.files, last.files);
  EXPECT_EQ(last.done.bytes, last.bytes);
}

TEST(ShardFolder, AFinishedBuildIsVerifiedAndKept) {
  const TempFolder folder;
  write_inputs(folder);
  build(folder, "out");
  const auto before = contents(folder.path("out"));
  BuildProgress last;
  build(folder, "out", 2, 500, {}, &last);
  EXPECT_EQ(last.shards_reused, last.shards);
  EXPECT_EQ(contents(folder.path("out")), before);
}

TEST(ShardFolder, AnotherBuildsFolderIsLeftAlone) {
  const TempFolder folder;
  write_inputs(folder);
  build(folder, "out");
  const auto before = contents(folder.path("out"));
  EXPECT_THAT(message_of([&] {
                build(folder, "out", 2, 500, {{"values", "300"}});
              }),
              HasSubstr("other files or options"));
  EXPECT_THAT(message_of([&] { build(folder, "out", 2, 600); }), HasSubstr("other files or options"));
  folder.write("in/61.npy", write_npy(std::vector<int32_t>{1}, {1}));
  EXPECT_THAT(message_of([&] { build(folder, "out"); }), HasSubstr("other files or options"));
  EXPECT_EQ(contents(folder.path("out")), before);
  folder.write("mine/thesis.txt", "years of work");
  EXPECT_THAT(message_of([&] { build(folder, "mine"); }), HasSubstr("not empty"));
}

TEST(ShardFolder, SplitFoldersAreKept) {
  const TempFolder folder;
  for (const char* name : {"train/a.npy", "train/deep/b.npy", "validation/a.npy", "test/c.npy", "d.npy"})
    folder.write(std::string("in/") + name, write_npy(std::vector<int32_t>{1, 2}, {2}));
  folder.write("in/train/empty.npy", "");
  const auto [files, skipped, notes, own] = find_inputs(folder.path("in"), find_modality("tokens"), {});
  ASSERT_EQ(files[0].size(), 2u);
  EXPECT_EQ(files[0][0].relative, "train/a.npy");
  EXPECT_EQ(files[0][1].relative, "train/deep/b.npy");
  EXPECT_EQ(files[1].size(), 1u);
  EXPECT_EQ(files[2].size(), 1u);
  ASSERT_EQ(skipped.size(), 2u);
  EXPECT_EQ(skipped[0], (FileRemark{"train/empty.npy", "is empty"}));
  EXPECT_EQ(skipped[1], (FileRemark{"d.npy", "is outside the folders train/, validation/ and test/"}));
  SplitOptions options;
  options.test = "*";
  EXPECT_THAT(message_of([&] { find_inputs(folder.path("in"), find_modality("tokens"), options); }),
              HasSubstr("leave the patterns out"));
}

TEST(ShardFolder, EmptyAndLargeFilesAreListed) {
  const TempFolder folder;
  folder.write("in/a.npy", write_npy(std::vector<int32_t>{1, 2}, {2}));
  folder.write("in/b.npy", "");
  folder.write("in/c.npy", write_npy({}, {0}));
  ModalityKind kind = find_modality("tokens");
  kind.max_file_bytes = 136;
  folder.write("in/d.npy", write_npy(std::vector<int32_t>{1, 2, 3}, {3}));
  SplitOptions split;
  split.validation_fraction = 0;
  const SplitListing inputs = find_inputs(folder.path("in"), kind, split);
  const auto modality = kind.open(ModalityOptions(kind, {}));
  const ShardSummary summary =
      build_shards(inputs.files, inputs.skipped, kind, *modality, folder.path("out"), {});
  ASSERT_EQ(summary.skipped.size(), 3u);
  EXPECT_EQ(summary.skipped[0], (FileRemark{"b.npy", "is empty"}));
  EXPECT_EQ(summary.skipped[1], (FileRemark{"c.npy", "contains no tokens"}));
  EXPECT_THAT(summary.skipped[2].remark, HasSubstr("140 bytes; at most 136"));
}

TEST(ShardFolder, InputsWithoutUseAreErrors) {
  const TempFolder folder;
  folder.write("in/a.txt", "text");
  const ModalityKind& kind = find_modality("audio");
  EXPECT_THAT(message_of([&] { find_inputs(folder.path("in"), kind, {}); }),
              AllOf(HasSubstr("no files to train on"), HasSubstr(".wav, ")));
  EXPECT_THAT(message_of([&] { find_inputs(folder.path("none"), kind, {}); }), HasSubstr("none"));
  folder.write("in/a.wav", write_audio(std::vector<float>(9), 8000, ".wav"));
  EXPECT_THAT(message_of([&] { find_inputs(folder.path("in"), kind, {}); }), HasSubstr("one file"));
  SplitOptions options;
  options.test = "*_9.wav";
  EXPECT_THAT(message_of([&] { find_inputs(folder.path("in"), kind, options); }),
              HasSubstr("no file matches the test pattern"));
  folder.write("bad/a.wav", "no sound");
  folder.write("bad/b.wav", "no sound either");
  const SplitFiles files = find_inputs(folder.path("bad"), kind, {}).files;
  const auto modality = kind.open(ModalityOptions(kind, {}));
  EXPECT_THAT(message_of([&] { build_shards(files, {}, kind, *modality, folder.path("out"), {}); }),
              AllOf(HasSubstr("no file could be used"), HasSubstr(".wav: not a supported audio file")));
}

TEST(ShardFolder, DamagedSummariesAreRefused) {
  const TempFolder folder;
  write_inputs(folder);
  build(folder, "out");
  const std::string good = read_file(folder.path("out/summary.json"), 1 << 20);
  const auto error = [&](const std::string& text) {
    folder.write("out/summary.json", text);
    return message_of([&] { read_summary(folder.path("out")); });
  };
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  EXPECT_THAT(error(good.substr(0, good.size() / 2)), HasSubstr("JSON"));
  EXPECT_THAT(error("[]"), HasSubstr("version"));
  EXPECT_THAT(error(replaced("\"version\": 1", "\"version\": 2")), HasSubstr("version 2"));
  EXPECT_THAT(error(replaced("train-00000", "../train")), HasSubstr("not the name of a shard"));
  EXPECT_THAT(error(replaced("\"validation\"", "\"valuation\"")), HasSubstr("validation"));
  EXPECT_THAT(error(replaced("\"xxh3\": \"", "\"xxh3\": \"zz")), HasSubstr("not a checksum"));
}

}  // namespace
}  // namespace perceiver
