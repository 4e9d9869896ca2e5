// Expands a list of files and folders into files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace perceiver {

struct ListedFile {
  std::string path;
  std::string relative;  ///< path below the listed folder; for a file listed itself, its name
  int64_t size;          ///< bytes, > 0 unless empty files are kept
  int64_t modified;      ///< nanoseconds since 1970
  uint64_t device;       ///< with `inode`: the identity of the file, independent of its path
  uint64_t inode;
};

/// Files in the order of `paths`, those of a folder sorted by path, each file once. In folders, hidden
/// entries are skipped and symbolic links to folders are not followed; empty files are skipped unless
/// `keep_empty`. `what` names the list in messages, e.g. "data.train". Throws if a path is missing,
/// unreadable, or neither a file nor a folder.
std::vector<ListedFile> list_files(const std::vector<std::string>& paths, const std::string& what,
                                   bool keep_empty = false);

}  // namespace perceiver
