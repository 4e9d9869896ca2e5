// Names of unfinished files and folders, and how to tell whether somebody still works on them: the writer
// holds a lock (flock) on its temporary, which the system releases however the writer ends. Process ids alone
// would not do, since they are reused, and shared between containers.
#pragma once

#include <filesystem>
#include <optional>

#include "io/file_descriptor.h"

namespace perceiver {

/// What a temporary is: something being written, or a finished folder moved aside while its successor takes
/// its name.
enum class TemporaryKind { unfinished, replaced };

struct TemporaryName {
  std::filesystem::path final_name;  ///< the file name without the temporary ending
  TemporaryKind kind = TemporaryKind::unfinished;
};

/// `<path>.tmp-<pid>` or `<path>.old-<pid>`, with `-<attempt>` behind it when attempt > 0.
std::filesystem::path temporary_path(const std::filesystem::path& path, TemporaryKind kind, int attempt = 0);

/// Reads a file name back into what temporary_path made it from; empty for any other name.
std::optional<TemporaryName> parse_temporary_name(const std::filesystem::path& file_name);

/// Locks an open file or folder without waiting; false when somebody else holds it.
bool try_lock(const FileDescriptor& file);

struct OpenTemporary {
  std::filesystem::path path;
  FileDescriptor file;  ///< open and locked
};

/// Creates a new, locked temporary file beside `path`.
OpenTemporary create_temporary_file(const std::filesystem::path& path);
/// Creates a new, locked temporary folder beside `path`.
OpenTemporary create_temporary_folder(const std::filesystem::path& path);

}  // namespace perceiver
