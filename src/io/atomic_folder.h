// Folders that appear whole or not at all (checkpoints), and cleaning up after killed runs.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "io/atomic_file.h"
#include "io/file_descriptor.h"

namespace perceiver {

/// Fills a folder under a temporary name; commit() gives it its final name, replacing an existing folder.
/// Without a commit everything written is removed and the existing folder stays. Errors are `failure`s that
/// name the path and the reason given by the system.
class AtomicFolder {
 public:
  /// Creates `<path>.tmp-<pid>`; the parent of `path` must exist.
  explicit AtomicFolder(std::filesystem::path path);
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;
  ~AtomicFolder();

  /// The temporary folder, until commit().
  const std::filesystem::path& path() const { return temporary_; }
  /// A new file in the folder for streaming; call its finish().
  OutputFile create_file(const std::string& name) const;
  void write_file(const std::string& name, std::span<const std::byte> bytes) const;
  void write_file(const std::string& name, std::string_view text) const;
  /// Synchronizes every file in the folder, gives it its final name and removes the folder it replaces.
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  FileDescriptor lock_;
  bool committed_ = false;
};

/// Removes the temporaries that killed processes left in `folder`, but not those whose writer is still
/// running. A folder that was moved aside and never replaced gets its name back. Only for folders that this
/// library manages (runs, checkpoints). Returns how many were removed; 0 for a missing folder.
int remove_stale_temporaries(const std::filesystem::path& folder);

/// Gives `temporary` the name `path` in two renames, for file systems that cannot exchange names: an existing
/// folder is first moved aside to `<path>.old-<pid>`, then removed at the end, or moved back if the second
/// rename fails.
void replace_folder_by_renames(const std::filesystem::path& temporary, const std::filesystem::path& path);

}  // namespace perceiver
