// Owning file descriptors, and how failed file operations are reported.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <utility>

namespace perceiver {

/// Owns an open file descriptor; closes it when destroyed. -1 = none.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int descriptor) : descriptor_(descriptor) {}
  FileDescriptor(FileDescriptor&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~FileDescriptor();

  int get() const { return descriptor_; }
  bool valid() const { return descriptor_ >= 0; }
  /// Gives up ownership.
  int release() { return std::exchange(descriptor_, -1); }

 private:
  int descriptor_ = -1;
};

/// Throws a `failure` for an output operation that failed with `error` (an errno value): "cannot <action>
/// '<path>': <strerror>; <what to do>".
[[noreturn]] void throw_output_failure(const std::string& action, const std::filesystem::path& path,
                                       int error);

/// Opens a file for reading. Throws a `user` error if it is missing, unreadable or a folder.
FileDescriptor open_for_reading(const std::filesystem::path& path);

/// Reads up to `buffer.size()` bytes and returns how many; 0 at the end of the file. `path` is for errors.
size_t read_some(const FileDescriptor& file, std::span<std::byte> buffer, const std::filesystem::path& path);

/// Size in bytes of an open regular file; throws a `user` error for anything else (pipe, device).
uint64_t regular_file_size(const FileDescriptor& file, const std::filesystem::path& path);

}  // namespace perceiver
