// summary.json: what a finished folder of shards contains.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/dataset.h"
#include "data/shards/shard_file.h"

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

/// What must be known of a shard before it is opened.
struct ShardContent {
  static constexpr int64_t max_least = int64_t{1} << 20;

  Split split = Split::train;
  int64_t documents = 0, tokens = 0;
  uint64_t checksum = 0;  ///< ShardFile::content_checksum
  /// Element k is the sum over its documents of max(2^k, targets), 2^k up to max_least (see CropSampler).
  /// Empty if it is not known.
  std::vector<int64_t> weights;
};

/// One file of a folder of shards.
struct ShardEntry {
  std::string file;  ///< name in the folder
  int64_t bytes = 0;
  uint64_t fingerprint = 0;             ///< ShardFile::fingerprint
  std::optional<ShardContent> content;  ///< not in folders of earlier versions
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

/// Reads the whole index.
ShardContent content_of(const ShardFile& shard);

/// True if the path is a folder that build_shards finished or started.
bool is_shard_folder(const std::filesystem::path& path);
/// Throws `user` if the build is unfinished or the summary is damaged.
ShardSummary read_summary(const std::filesystem::path& folder);
/// The content of summary.json, to and from text. `source` names it in errors; throws `user`.
std::string summary_text(const ShardSummary& summary);
ShardSummary parse_summary(std::string_view text, const std::string& source);
void write_summary(const ShardSummary& summary, const std::filesystem::path& folder);

}  // namespace perceiver
