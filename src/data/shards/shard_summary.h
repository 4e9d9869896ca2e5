// summary.json: what a finished folder of shards contains.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "data/dataset.h"
#include "data/shards/shard_header.h"

namespace perceiver {

inline constexpr std::string_view shard_ending = ".shard";
inline constexpr const char* summary_file_name = "summary.json";
/// Identifies the build that a folder belongs to; written first.
inline constexpr const char* journal_file_name = "build.json";
/// Largest summary or journal accepted, bytes.
inline constexpr uint64_t max_summary_bytes = uint64_t{256} << 20;

/// Totals of one split.
struct SplitCounts {
  int64_t shards = 0, documents = 0, tokens = 0, units = 0, words = 0;
};

/// One file of a folder of shards.
struct ShardEntry {
  std::string file;  ///< name in the folder
  int64_t bytes = 0;
  uint64_t fingerprint = 0;  ///< ShardFile::fingerprint
};

/// The content of summary.json. It is written last: a folder that has one is complete.
struct ShardSummary {
  std::string modality;
  std::string unit;
  int64_t vocabulary = 0;
  std::array<SplitCounts, split_count> splits;
  std::vector<FileRemark> skipped, repaired;
  std::vector<ShardEntry> shards;
};

/// True if the path is a folder that build_shards finished or started.
bool is_shard_folder(const std::filesystem::path& path);
/// Throws `user` if the build is unfinished or the summary is damaged.
ShardSummary read_summary(const std::filesystem::path& folder);
void write_summary(const ShardSummary& summary, const std::filesystem::path& folder);

}  // namespace perceiver
