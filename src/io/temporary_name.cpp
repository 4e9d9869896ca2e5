#include "io/temporary_name.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <string_view>

namespace perceiver {
namespace {

constexpr std::string_view unfinished_ending = ".tmp-";
constexpr std::string_view replaced_ending = ".old-";
constexpr int max_attempts = 1000;

bool is_process_part(std::string_view text) {
  return !text.empty() && text.front() != '-' && text.back() != '-' &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || c == '-'; });
}

/// Calls `create(temporary path)`, which returns 0 or an errno value, until a name is free.
template <typename Create>
std::filesystem::path create_unused(const std::filesystem::path& path, Create create) {
  int error = EEXIST;
  for (int attempt = 0; attempt < max_attempts && error == EEXIST; ++attempt) {
    std::filesystem::path candidate = temporary_path(path, TemporaryKind::unfinished, attempt);
    error = create(candidate);
    if (error == 0) return candidate;
  }
  throw_output_failure("create a temporary next to", path, error);
}

}  // namespace

std::filesystem::path temporary_path(const std::filesystem::path& path, TemporaryKind kind, int attempt) {
  const std::string_view ending = kind == TemporaryKind::unfinished ? unfinished_ending : replaced_ending;
  std::string name = fmt::format("{}{}{}", path.filename().string(), ending, ::getpid());
  if (attempt > 0) name += fmt::format("-{}", attempt);
  return path.parent_path() / name;
}

std::optional<TemporaryName> parse_temporary_name(const std::filesystem::path& file_name) {
  const std::string name = file_name.string();
  for (const TemporaryKind kind : {TemporaryKind::unfinished, TemporaryKind::replaced}) {
    const std::string_view ending = kind == TemporaryKind::unfinished ? unfinished_ending : replaced_ending;
    const size_t at = name.rfind(ending);
    if (at == std::string::npos || at == 0) continue;
    if (is_process_part(std::string_view(name).substr(at + ending.size())))
      return TemporaryName{name.substr(0, at), kind};
  }
  return std::nullopt;
}

bool try_lock(const FileDescriptor& file) {
  // Writing must work on file systems without locks: only "already locked" counts as failure.
  return ::flock(file.get(), LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
}

OpenTemporary create_temporary_file(const std::filesystem::path& path) {
  OpenTemporary result;
  result.path = create_unused(path, [&](const std::filesystem::path& candidate) {
    result.file = FileDescriptor(::open(candidate.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    return result.file.valid() ? 0 : errno;
  });
  try_lock(result.file);
  return result;
}

OpenTemporary create_temporary_folder(const std::filesystem::path& path) {
  OpenTemporary result;
  result.path = create_unused(path, [&](const std::filesystem::path& candidate) {
    return ::mkdir(candidate.c_str(), 0777) == 0 ? 0 : errno;
  });
  result.file = FileDescriptor(::open(result.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!result.file.valid()) throw_output_failure("open the folder", result.path, errno);
  try_lock(result.file);
  return result;
}

}  // namespace perceiver
