// Names of unfinished files and folders, and whether they are still in use: the writer holds a lock (flock)
// on its temporary, which the system releases however the writer ends. Process ids alone are not enough: they
// are reused, and not unique across containers.
#pragma once

#include <filesystem>
#include <optional>

#include "io/file_descriptor.h"

namespace perceiver {

/// A temporary is something being written, or a finished folder moved aside while its replacement takes its
/// name.
enum class TemporaryKind { unfinished, replaced };

struct TemporaryName {
  std::filesystem::path final_name;  ///< the file name without the temporary suffix
  TemporaryKind kind = TemporaryKind::unfinished;
};

/// `<path>.tmp-<pid>` or `<path>.old-<pid>`, followed by `-<attempt>` if attempt > 0.
std::filesystem::path temporary_path(const std::filesystem::path& path, TemporaryKind kind, int attempt = 0);

/// The inverse of temporary_path for a file name; nothing for any other name.
std::optional<TemporaryName> parse_temporary_name(const std::filesystem::path& file_name);

/// Locks an open file or folder without waiting; false if it is already locked.
bool try_lock(const FileDescriptor& file);

struct OpenTemporary {
  std::filesystem::path path;
  FileDescriptor file;  ///< open and locked
};

/// Creates a new, locked temporary file next to `path`.
OpenTemporary create_temporary_file(const std::filesystem::path& path);
/// Creates a new, locked temporary folder next to `path`.
OpenTemporary create_temporary_folder(const std::filesystem::path& path);

}  // namespace perceiver
