// Memory-mapped files that are read by copying: one file, or any number with a bound on how many are mapped.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "io/file_view.h"

namespace perceiver {

/// A whole file, mapped for reading; its descriptor is closed at once. Pages are loaded on access, so a file
/// may be far larger than memory. The file must not be truncated while it is mapped (the system then sends
/// SIGBUS).
class MappedFile {
 public:
  /// Throws if `path` is missing, a folder, not a regular file, unreadable or empty.
  explicit MappedFile(const std::string& path);

  int64_t size() const { return static_cast<int64_t>(view_.bytes().size()); }
  /// Copies bytes [offset, offset + out.size()) and releases their pages, which stay in the page cache but no
  /// longer count as memory of this process. Throws if the range is outside the file.
  void read(int64_t offset, std::span<uint8_t> out) const;

 private:
  std::string path_;
  FileView view_;
};

/// Any number of files, at most `max_mapped` of them mapped at a time: the system limits the mappings of a
/// process (65530 by default on Linux), and a corpus may have millions of files. Thread-safe.
class FileSet {
 public:
  static constexpr size_t default_max_mapped = 4096;
  explicit FileSet(size_t max_mapped = default_max_mapped) : max_mapped_(max_mapped) {}

  /// Adds a file of `size` bytes, size > 0, which is mapped when first read. Returns its index.
  int64_t add(std::string path, int64_t size);
  int64_t files() const { return static_cast<int64_t>(entries_.size()); }
  const std::string& path(int64_t file) const { return entries_[file].path; }
  int64_t size(int64_t file) const { return entries_[file].size; }
  /// Copies bytes [offset, offset + out.size()) of a file; throws if it is gone or its size has changed.
  void read(int64_t file, int64_t offset, std::span<uint8_t> out) const;
  /// Number of files mapped now.
  int64_t mapped() const;

 private:
  struct Entry {
    std::string path;
    int64_t size;
    std::shared_ptr<const MappedFile> mapping;
  };
  std::shared_ptr<const MappedFile> map(int64_t file) const;

  size_t max_mapped_;
  mutable std::mutex mutex_;
  mutable std::vector<Entry> entries_;
  mutable std::deque<int64_t> mapped_;  ///< oldest first
};

}  // namespace perceiver
