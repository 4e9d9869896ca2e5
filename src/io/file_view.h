// A read-only view of a file's bytes, loaded by the operating system on access.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace perceiver {

/// Owns a read-only mapping of a whole regular file. The file must not be truncated while it is mapped (the
/// system would kill the process with SIGBUS); files written by AtomicFile never are.
class FileView {
 public:
  FileView() = default;
  /// Throws a `user` error if the file cannot be opened, `failure` if it cannot be mapped.
  explicit FileView(const std::filesystem::path& path);
  FileView(FileView&& other) noexcept;
  FileView& operator=(FileView&& other) noexcept;
  ~FileView();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  /// Advice for bytes that are read once, all inside the file: before reading, asks for many in one go
  /// instead of a fault per page; afterwards drops their pages and those beside them, which stay in the page
  /// cache but no longer count as memory of this process.
  void fetch(uint64_t offset, uint64_t bytes) const;
  void release(uint64_t offset, uint64_t bytes) const;

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace perceiver
