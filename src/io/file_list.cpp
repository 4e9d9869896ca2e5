#include "io/file_list.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "io/file_content.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using Identity = std::pair<uint64_t, uint64_t>;

Identity identity(const struct stat& status) {
  return {status.st_dev, status.st_ino};
}

ListedFile describe(const std::string& path, std::string relative, const struct stat& status) {
  const int64_t modified = status.st_mtim.tv_sec * int64_t{1'000'000'000} + status.st_mtim.tv_nsec;
  return {.path = path,
          .relative = std::move(relative),
          .size = status.st_size,
          .modified = modified,
          .device = status.st_dev,
          .inode = status.st_ino};
}

/// Why a file cannot be used; empty if it can.
std::string fault_of(const std::string& path, const struct stat& status) {
  if (!S_ISREG(status.st_mode)) return "is neither a file nor a folder";
  if (status.st_size == 0) return "is empty";
  if (::faccessat(AT_FDCWD, path.c_str(), R_OK, AT_EACCESS) != 0) return read_fault(errno);
  return {};
}

/// Why `stat` failed with `error` on an entry of a folder.
std::string stat_fault(const std::string& path, int error) {
  std::error_code ignored;
  if (error != ENOENT) return read_fault(error);
  const fs::path target = fs::read_symlink(path, ignored);
  if (target.empty()) return "vanished while its folder was read";
  return fmt::format("is a broken link to {}", quote(target.string()));
}

/// Entries of a folder, sorted; `error` receives an errno value if it cannot be read.
std::vector<std::string> entries_of(const std::string& folder, int& error) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, int (*)(DIR*)> open(::opendir(folder.c_str()), ::closedir);
  error = open ? 0 : errno;
  while (open) {
    errno = 0;
    const dirent* entry = ::readdir(open.get());
    if (entry == nullptr) {
      error = errno;
      break;
    }
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// Lists what is below one folder. Links to folders wait until all real folders are known: a folder is listed
/// under its own path where it has one.
class FolderWalk {
 public:
  FolderWalk(std::string root, const SkipPath& skip) : root_(std::move(root)), skip_(skip) {}

  /// The files, sorted by path. Throws `user` if the folder itself cannot be read.
  std::vector<ListedFile> list(const struct stat& root, const std::string& what) {
    seen_.emplace(identity(root), "");
    if (const int error = walk(""))
      throw_user("{}: folder {} cannot be read: {}", what, printable(root_), std::strerror(error));
    for (; !links_.empty(); links_.pop_front()) enter(links_.front().first, links_.front().second);
    std::sort(files_.begin(), files_.end(),
              [](const ListedFile& a, const ListedFile& b) { return a.path < b.path; });
    return std::move(files_);
  }

 private:
  std::string path_of(const std::string& relative) const { return (fs::path(root_) / relative).string(); }
  void skip(const std::string& relative, const std::string& reason) const {
    if (skip_) skip_(relative, reason);
  }

  /// Lists a folder; returns an errno value if it cannot be read.
  int walk(const std::string& relative) {
    int error = 0;
    for (const std::string& name : entries_of(relative.empty() ? root_ : path_of(relative), error))
      look_at(relative.empty() ? name : relative + "/" + name);
    return error;
  }

  void look_at(const std::string& relative) {
    const std::string path = path_of(relative);
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) return skip(relative, stat_fault(path, errno));
    if (S_ISDIR(status.st_mode)) {
      std::error_code ignored;
      if (fs::is_symlink(path, ignored)) return links_.emplace_back(relative, identity(status)), void();
      return enter(relative, identity(status));
    }
    const std::string fault = fault_of(path, status);
    if (!fault.empty()) return skip(relative, fault);
    files_.push_back(describe(path, relative, status));
  }

  void enter(const std::string& relative, const Identity& folder) {
    const auto [known, fresh] = seen_.try_emplace(folder, relative);
    if (!fresh) {
      const std::string& first = known->second;
      return skip(relative, first.empty() ? "is a link to a folder that it is in"
                                          : fmt::format("is the same folder as {}", quote(first)));
    }
    if (const int error = walk(relative)) skip(relative, read_fault(error));
  }

  std::string root_;
  const SkipPath& skip_;
  std::vector<ListedFile> files_;
  std::map<Identity, std::string> seen_;                ///< folders, and their paths below the root
  std::deque<std::pair<std::string, Identity>> links_;  ///< to folders
};

std::vector<ListedFile> list_path(const std::string& path, const std::string& what, const SkipPath& skip) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    const bool missing = errno == ENOENT || errno == ENOTDIR;
    throw_user("{}: {}: {}", what, printable(path),
               missing ? "no such file or folder" : std::strerror(errno));
  }
  if (S_ISDIR(status.st_mode)) return FolderWalk(path, skip).list(status, what);
  if (const std::string fault = fault_of(path, status); !fault.empty())
    throw_user("{}: {}: {}", what, printable(path), fault);
  std::vector<ListedFile> one{describe(path, fs::path(path).filename().string(), status)};
  one[0].named = true;
  return one;
}

}  // namespace

std::vector<ListedFile> list_files(const std::vector<std::string>& paths, const std::string& what,
                                   const SkipPath& skip) {
  std::vector<ListedFile> files;
  std::map<Identity, std::string> seen;
  for (const std::string& path : paths) {
    for (ListedFile& file : list_path(path, what, skip)) {
      const auto [known, fresh] = seen.try_emplace({file.device, file.inode}, file.path);
      if (fresh) {
        files.push_back(std::move(file));
        continue;
      }
      const std::string reason = fmt::format("is the same file as {}", printable(known->second));
      if (file.named)
        throw_user("{}: {}: {}, which is listed already; name it once", what, printable(path), reason);
      if (skip)
        skip(file.relative,
             fmt::format("is the same file as {}", printable(fs::path(known->second).filename().string())));
    }
  }
  return files;
}

}  // namespace perceiver
