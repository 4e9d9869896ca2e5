#include "io/atomic_folder.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <vector>

#include "base/check.h"
#include "io/temporary_name.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;

void remove_tree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) throw_output_failure("remove", path, error.value());
}

void sync_file(const fs::path& path) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) throw_output_failure("open", path, errno);
  if (::fsync(file.get()) != 0) throw_output_failure("synchronize", path, errno);
}

/// Synchronizes the files and folders below `folder`, then `folder`.
void sync_tree(const fs::path& folder) {
  std::error_code error;
  fs::recursive_directory_iterator entry(folder, error);
  for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    if (entry->is_directory()) sync_directory(entry->path());
    if (entry->is_regular_file()) sync_file(entry->path());
  }
  if (error) throw_output_failure("list", folder, error.value());
  sync_directory(folder);
}

void rename_or_throw(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) throw_output_failure("replace", to, errno);
}

/// Swaps two names atomically; false if the file system cannot.
bool exchange_names(const fs::path& a, const fs::path& b) {
  if (::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0) return true;
  if (errno == EINVAL || errno == ENOSYS || errno == ENOTSUP) return false;
  throw_output_failure("replace", b, errno);
}

bool folder_exists(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(path, error);
  if (!fs::exists(status)) return false;
  if (!fs::is_directory(status)) throw_output_failure("replace", path, ENOTDIR);
  return true;
}

void publish(const fs::path& temporary, const fs::path& path) {
  if (!folder_exists(path)) {
    rename_or_throw(temporary, path);
    sync_directory(path.parent_path());
    return;
  }
  if (!exchange_names(temporary, path)) {
    replace_folder_by_renames(temporary, path);
    return;
  }
  sync_directory(path.parent_path());
  remove_tree(temporary);  // now the previous folder
}

bool in_use(const fs::path& path) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  return file.valid() && !try_lock(file);
}

/// Moves a folder that was moved aside back, unless its name is taken; true if it did.
bool restore(const fs::path& replaced, const fs::path& final_path) {
  std::error_code error;
  if (fs::exists(fs::symlink_status(final_path, error))) return false;
  rename_or_throw(replaced, final_path);
  return true;
}

std::vector<fs::path> list_folder(const fs::path& folder) {
  std::vector<fs::path> paths;
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) paths.push_back(entry->path());
  if (error && error.value() != ENOENT) throw_output_failure("list", folder, error.value());
  return paths;
}

}  // namespace

AtomicFolder::AtomicFolder(fs::path path) : path_(std::move(path)) {
  if (!path_.has_filename()) path_ = path_.parent_path();  // a/b/ is a/b
  if (!path_.has_filename()) throw_user("cannot write '{}': it is not a folder name", path_.string());
  OpenTemporary temporary = create_temporary_folder(path_);
  temporary_ = std::move(temporary.path);
  lock_ = std::move(temporary.file);
}

AtomicFolder::~AtomicFolder() {
  if (committed_) return;
  std::error_code ignored;  // a destructor cannot report; remove_stale_temporaries cleans up what stays
  fs::remove_all(temporary_, ignored);
}

OutputFile AtomicFolder::create_file(const std::string& name) const {
  return OutputFile(temporary_ / name);
}

void AtomicFolder::write_file(const std::string& name, std::span<const std::byte> bytes) const {
  OutputFile file = create_file(name);
  file.write(bytes);
  file.finish();
}

void AtomicFolder::write_file(const std::string& name, std::string_view text) const {
  write_file(name, std::as_bytes(std::span(text.data(), text.size())));
}

void AtomicFolder::commit() {
  PERCEIVER_ASSERT(!committed_);
  sync_tree(temporary_);
  publish(temporary_, path_);
  committed_ = true;
}

int remove_stale_temporaries(const fs::path& folder) {
  int removed = 0;
  for (const fs::path& path : list_folder(folder)) {
    const std::optional<TemporaryName> name = parse_temporary_name(path.filename());
    if (!name || in_use(path)) continue;
    if (name->kind == TemporaryKind::replaced && restore(path, folder / name->final_name)) continue;
    remove_tree(path);
    ++removed;
  }
  return removed;
}

void replace_folder_by_renames(const fs::path& temporary, const fs::path& path) {
  const fs::path aside = temporary_path(path, TemporaryKind::replaced);
  remove_tree(aside);
  rename_or_throw(path, aside);
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    const int error = errno;
    rename_or_throw(aside, path);
    throw_output_failure("replace", path, error);
  }
  sync_directory(path.parent_path());
  remove_tree(aside);
}

}  // namespace perceiver
