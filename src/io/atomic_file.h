// Files that appear whole or not at all: written under a temporary name next to the final one, synchronized
// to disk, then renamed. A process killed at any moment leaves the previous file intact, and at most a
// temporary that remove_stale_temporaries (io/atomic_folder.h) cleans up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "io/file_descriptor.h"

namespace perceiver {

/// A file written sequentially and unbuffered: pass large pieces. Every error is a `failure` that names the
/// path, the byte offset and the reason given by the system.
class OutputFile {
 public:
  /// Creates the file, or empties an existing one.
  explicit OutputFile(std::filesystem::path path);
  /// Takes over an open descriptor.
  OutputFile(FileDescriptor file, std::filesystem::path path);

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  /// Called now and then while a long file is written: after each piece of at most 64 MiB, and each time 1
  /// GiB has reached the disk, which is then waited for, so that no call waits for much more.
  void on_progress(std::function<void()> progress) { progress_ = std::move(progress); }
  /// Synchronizes to disk and closes. Data is only safe once this has returned.
  void finish();
  /// Bytes written so far.
  uint64_t size() const { return size_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  /// Bytes until the next call of progress_, or all.
  size_t piece(size_t bytes) const;
  void report_progress();
  void synchronize();

  FileDescriptor file_;
  std::filesystem::path path_;
  uint64_t size_ = 0;
  std::function<void()> progress_;
};

/// Writes a file under a temporary name; commit() gives it its final name. Without a commit, the temporary is
/// removed and an existing file of that name stays.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void write(std::span<const std::byte> bytes) { output_.write(bytes); }
  void write(std::string_view text) { output_.write(text); }
  /// For streaming; commit() calls its finish().
  OutputFile& output() { return output_; }
  void commit();

 private:
  std::filesystem::path path_;
  OutputFile output_;
  bool committed_ = false;
};

void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes);
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

/// The whole content of a file (or pipe) of at most `max_bytes` bytes. Throws a `user` error if it is
/// missing, unreadable or longer.
std::string read_file(const std::filesystem::path& path, uint64_t max_bytes);

/// Makes changes to the names in a folder (creations, renames, removals) survive a power failure.
void sync_directory(const std::filesystem::path& path);

}  // namespace perceiver
