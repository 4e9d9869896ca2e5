// A folder of shards: how it is built, so that a build that was killed goes on, and what it holds.
#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/shards/shard_encode.h"

namespace perceiver {

/// Documents and tokens of one split.
struct SplitCounts {
  int64_t shards = 0, documents = 0, tokens = 0, units = 0, words = 0;
};

/// One file of a folder of shards.
struct ShardEntry {
  std::string file;  ///< name in the folder
  int64_t bytes = 0;
  uint64_t fingerprint = 0;  ///< ShardFile::fingerprint
};

/// What summary.json says: it is written last, so a folder that has one is complete.
struct ShardSummary {
  std::string modality;
  std::string unit;
  int64_t vocabulary = 0;
  std::array<SplitCounts, split_count> splits;
  std::vector<SkippedFile> skipped;
  std::vector<ShardEntry> shards;
};

inline constexpr const char* summary_file_name = "summary.json";

/// Which files of an input folder are for what.
struct SplitOptions {
  std::string validation, test;  ///< patterns as of fnmatch(3) on paths below the input folder; "" = none
  double validation_fraction = 0.05;  ///< of what no pattern takes; not with `validation`
  double test_fraction = 0;
  uint64_t seed = 0;
};

/// The files of `input` (a file or a folder) that `kind` takes, by split: those below its folders train/,
/// validation/ and test/ where there is a folder train/, else by pattern and fraction. The others are added
/// to `skipped`. Throws `user` if nothing is left to train on, or patterns meet an input that has such
/// folders.
SplitFiles find_inputs(const std::string& input, const ModalityKind& kind, const SplitOptions& options,
                       std::vector<SkippedFile>& skipped);

struct BuildProgress {
  EncodeCounts done;
  int64_t files = 0;  ///< in all
  int64_t bytes = 0;  ///< of them
  int64_t shards_done = 0, shards = 0;
  int64_t shards_reused = 0;  ///< found finished and sound
};

struct BuildOptions {
  int64_t shard_tokens = default_shard_tokens;
  int workers = 0;                                     ///< threads; 0 = one per processor
  std::function<void(const BuildProgress&)> progress;  ///< called by any thread, one at a time
};

/// Builds the shards of `files` in `folder`, which is created. Its shards are the same bytes whatever the
/// number of workers. Shards that an earlier, killed build of the same files with the same options finished
/// are verified and kept. Throws `user` if the folder holds anything else, or another process builds there.
ShardSummary build_shards(const SplitFiles& files, std::vector<SkippedFile> skipped, const ModalityKind& kind,
                          const Modality& modality, const std::filesystem::path& folder,
                          const BuildOptions& options);

/// True if the path is a folder that build_shards made or was making.
bool is_shard_folder(const std::filesystem::path& path);
/// Throws `user` for a build that was not finished, or a summary that is damaged.
ShardSummary read_summary(const std::filesystem::path& folder);

}  // namespace perceiver
