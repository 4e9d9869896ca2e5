// The shards of a split. Those of a folder are opened when they are first read.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "data/shards/shard_file.h"
#include "data/shards/shard_summary.h"

namespace perceiver {

/// Shards in order. A set of a thousand files takes a few kilobytes until they are read, and then a mapping
/// of each, but at most `max_open` (the system limits the mappings of a process to 65530 by default). Reading
/// is thread-safe, adding is not.
class ShardSet {
 public:
  static constexpr size_t default_max_open = 4096;
  using Shard = std::shared_ptr<const ShardFile>;
  /// A document of a shard.
  struct Place {
    Shard shard;
    int64_t document;
  };

  explicit ShardSet(size_t max_open = default_max_open) : max_open_(max_open) {}

  /// Adds a shard that stays open.
  void add(ShardFile shard);
  /// Adds a file whose summary says what is in it. When it is opened, it must be that, and pass `check`.
  void add(std::filesystem::path path, ShardEntry entry, std::function<void(const ShardFile&)> check);

  int64_t shards() const { return static_cast<int64_t>(entries_.size()); }
  int64_t documents() const { return ends_.empty() ? 0 : ends_.back(); }
  int64_t tokens() const { return tokens_; }
  const ShardContent& content(int64_t shard) const { return entry(shard).content; }
  /// Number of the shard's first document.
  int64_t first_document(int64_t shard) const {
    return shard == 0 ? 0 : ends_[static_cast<size_t>(shard) - 1];
  }
  /// Opens the shard if it is not. Throws `user` if it is not the one that the summary lists.
  Shard open(int64_t shard) const;
  Place find(int64_t document) const;
  /// Files that are open now.
  int64_t open_files() const;

 private:
  struct Entry {
    std::filesystem::path path;
    uint64_t fingerprint = 0;
    ShardContent content;
    std::function<void(const ShardFile&)> check;
    Shard shard;  ///< null while it is closed
  };

  const Entry& entry(int64_t shard) const { return entries_[static_cast<size_t>(shard)]; }
  void add(Entry entry);
  static Shard open_file(const Entry& entry);

  size_t max_open_;
  mutable std::mutex mutex_;  ///< for `shard` of the entries, and opened_
  mutable std::vector<Entry> entries_;
  mutable std::deque<int64_t> opened_;  ///< files, oldest first
  std::vector<int64_t> ends_;           ///< running sums of the document counts
  int64_t tokens_ = 0;
};

}  // namespace perceiver
