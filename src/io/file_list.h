// Expands a list of files and folders into files.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace perceiver {

struct ListedFile {
  std::string path;
  std::string relative;  ///< path below the listed folder; for a file listed itself, its name
  int64_t size;          ///< bytes, > 0
  int64_t modified;      ///< nanoseconds since 1970
  uint64_t device;       ///< with `inode`: the identity of the file, independent of its path
  uint64_t inode;
  bool named = false;  ///< listed itself, not found in a folder
};

/// Told of each path in a folder that is not listed, as in `ListedFile::relative`, and why: "is empty".
using SkipPath = std::function<void(const std::string& relative, const std::string& reason)>;

/// Files in the order of `paths`, those of a folder sorted by path, each file once. Symbolic links are
/// followed; a folder reached twice (by a link that loops, or by two links) is listed once, under its own
/// path if it has one. In folders, hidden entries are ignored, and what is empty, unreadable, a broken link,
/// or neither a file nor a folder is reported to `skip`. `what` names the list in messages, e.g.
/// "data.train". Throws `user` if one of `paths` itself is missing, unreadable, empty, listed before, or
/// neither a file nor a folder.
std::vector<ListedFile> list_files(const std::vector<std::string>& paths, const std::string& what,
                                   const SkipPath& skip = {});

}  // namespace perceiver
