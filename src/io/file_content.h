// The bytes of a file that may be damaged, vanish or change while it is read.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <vector>

#include "io/file_view.h"

namespace perceiver {

/// Whether there is a file, or a link to one, and no folder or device; false where that cannot be told.
inline bool is_file(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(path, ignored);
}

/// "cannot be read: <strerror>": why one file of many is left out. Throws `failure` for an `error` (errno)
/// that is no fault of the file: too many open files, no memory.
std::string read_fault(int error);

/// Reads files of up to 64 MiB into memory, where a failing disk or another process that cuts the file short
/// is an error (a mapping would end the process with SIGBUS); larger ones are mapped.
class FileContent {
 public:
  static constexpr uint64_t most_memory = uint64_t{64} << 20;

  /// Throws `user` "<path>: cannot be read: …" if the file cannot be opened or read, or is cut short
  /// meanwhile.
  explicit FileContent(const std::filesystem::path& path);

  std::span<const std::byte> bytes() const { return view_.bytes().empty() ? memory_ : view_.bytes(); }

 private:
  std::vector<std::byte> memory_;
  FileView view_;
};

}  // namespace perceiver
