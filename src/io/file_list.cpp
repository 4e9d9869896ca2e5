#include "io/file_list.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>
#include <utility>

#include "base/check.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;

bool hidden(const fs::path& path) {
  return path.filename().native().starts_with('.');
}

struct stat examine(const std::string& path, const std::string& what) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0) return status;
  if (errno == ENOENT || errno == ENOTDIR) throw_user("{}: {}: no such file or folder", what, path);
  throw_user("{}: {}: {}", what, path, std::strerror(errno));
}

ListedFile describe(const std::string& path, std::string relative, const struct stat& status,
                    const std::string& what) {
  if (::access(path.c_str(), R_OK) != 0) throw_user("{}: {}: {}", what, path, std::strerror(errno));
  const int64_t modified = status.st_mtim.tv_sec * int64_t{1'000'000'000} + status.st_mtim.tv_nsec;
  return {.path = path,
          .relative = std::move(relative),
          .size = status.st_size,
          .modified = modified,
          .device = status.st_dev,
          .inode = status.st_ino};
}

/// Paths of the regular files below `folder`, sorted; symbolic links to files count as files.
std::vector<std::string> files_below(const std::string& folder, const std::string& what) {
  std::vector<std::string> found;
  std::error_code error;
  fs::recursive_directory_iterator entry(folder, error);
  for (const fs::recursive_directory_iterator end; !error && entry != end; entry.increment(error)) {
    if (hidden(entry->path())) {
      entry.disable_recursion_pending();
      continue;
    }
    std::error_code broken_link;
    if (entry->is_regular_file(broken_link)) found.push_back(entry->path().string());
  }
  if (error) throw_user("{}: folder {} cannot be read: {}", what, folder, error.message());
  std::sort(found.begin(), found.end());
  return found;
}

void list_path(const std::string& path, const std::string& what, std::vector<ListedFile>& files) {
  const struct stat status = examine(path, what);
  if (S_ISREG(status.st_mode)) {
    files.push_back(describe(path, fs::path(path).filename().string(), status, what));
    return;
  }
  if (!S_ISDIR(status.st_mode)) throw_user("{}: {}: neither a file nor a folder", what, path);
  for (const std::string& file : files_below(path, what)) {
    std::string relative = fs::path(file).lexically_relative(path).string();
    files.push_back(describe(file, std::move(relative), examine(file, what), what));
  }
}

}  // namespace

std::vector<ListedFile> list_files(const std::vector<std::string>& paths, const std::string& what,
                                   bool keep_empty) {
  std::vector<ListedFile> files;
  for (const std::string& path : paths) list_path(path, what, files);
  std::set<std::pair<uint64_t, uint64_t>> seen;
  std::erase_if(files, [&](const ListedFile& file) {
    return (file.size == 0 && !keep_empty) || !seen.emplace(file.device, file.inode).second;
  });
  return files;
}

}  // namespace perceiver
