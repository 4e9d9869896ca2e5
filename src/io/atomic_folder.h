// Folders that appear whole or not at all (checkpoints), and the clearing away of what killed runs left.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "io/atomic_file.h"
#include "io/file_descriptor.h"

namespace perceiver {

/// Fills a folder under a temporary name; commit() gives it its final one, in place of an earlier folder of
/// that name. Without a commit everything written is removed and the earlier folder stays. Errors are
/// `failure`s that name the path and the system's reason.
class AtomicFolder {
 public:
  /// Creates `<path>.tmp-<pid>`; the parent of `path` must exist.
  explicit AtomicFolder(std::filesystem::path path);
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;
  ~AtomicFolder();

  /// Where files are put until commit().
  const std::filesystem::path& path() const { return temporary_; }
  /// A new file in the folder, to be streamed; call its finish().
  OutputFile create_file(const std::string& name) const;
  void write_file(const std::string& name, std::span<const std::byte> bytes) const;
  void write_file(const std::string& name, std::string_view text) const;
  /// Synchronises every file of the folder, gives it its final name and removes the folder it replaces.
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  FileDescriptor lock_;
  bool committed_ = false;
};

/// Removes the temporaries that killed processes left in `folder`; those whose writer still lives stay. A
/// folder that was moved aside for a successor that never came gets its name back. Only for folders whose
/// content is this library's (runs, checkpoints). Returns how many were removed; 0 for a missing folder.
int remove_stale_temporaries(const std::filesystem::path& folder);

/// Gives `temporary` the name `path` by two renames, the way for file systems that cannot exchange names: an
/// existing folder first steps aside as `<path>.old-<pid>`, is removed at the end, and gets its name back if
/// the second rename fails.
void replace_folder_by_renames(const std::filesystem::path& temporary, const std::filesystem::path& path);

}  // namespace perceiver
