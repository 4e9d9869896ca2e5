#include "train/checkpoint_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <string>

#include "io/atomic_file.h"
#include "io/atomic_folder.h"
#include "io/file_descriptor.h"
#include "io/temporary_name.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step-";
constexpr const char* kBest = "best";

std::string name_of(int64_t step) {
  return fmt::format("{}{:09}", kPrefix, step);
}

std::optional<int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  int64_t step = 0;
  const char* const end = name.data() + name.size();
  const auto [stopped, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  if (error != std::errc() || stopped != end || step < 0 || name != name_of(step)) return std::nullopt;
  return step;
}

void rename_or_throw(const char* action, const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) throw_output_failure(action, from, error.value());
}

/// Renames it first: half a checkpoint must never look like a whole one.
void remove_checkpoint(const fs::path& path) {
  const fs::path temporary = temporary_path(path, TemporaryKind::unfinished);
  rename_or_throw("remove", path, temporary);
  std::error_code error;
  fs::remove_all(temporary, error);
  if (error) throw_output_failure("remove", temporary, error.value());
}

}  // namespace

void CheckpointStore::prepare() const {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) throw_output_failure("create the folder", folder_, error.value());
  remove_stale_temporaries(folder_);
}

std::vector<int64_t> CheckpointStore::steps() const {
  std::vector<int64_t> found;
  std::error_code error;
  fs::directory_iterator entry(folder_, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const std::optional<int64_t> step = step_of(entry->path().filename().string());
    if (step && fs::is_directory(entry->symlink_status())) found.push_back(*step);
  }
  if (error && error != std::errc::no_such_file_or_directory)
    throw_output_failure("list", folder_, error.value());
  std::sort(found.begin(), found.end());
  return found;
}

fs::path CheckpointStore::path(int64_t step) const {
  return folder_ / name_of(step);
}

std::optional<int64_t> CheckpointStore::best() const {
  std::error_code error;
  const fs::path target = fs::read_symlink(folder_ / kBest, error);
  if (error) return std::nullopt;
  const std::optional<int64_t> step = step_of(target.string());
  return step && fs::is_directory(path(*step), error) ? step : std::nullopt;
}

void CheckpointStore::set_best(int64_t step) const {
  const fs::path link = folder_ / kBest, temporary = temporary_path(link, TemporaryKind::unfinished);
  std::error_code error;
  fs::remove(temporary, error);
  fs::create_directory_symlink(name_of(step), temporary, error);
  if (error) throw_output_failure("create the link", temporary, error.value());
  rename_or_throw("replace", temporary, link);
  sync_directory(folder_);
}

void CheckpointStore::clear_best() const {
  std::error_code error;
  fs::remove(folder_ / kBest, error);
  if (error) throw_output_failure("remove", folder_ / kBest, error.value());
}

void CheckpointStore::prune(int64_t keep) const {
  std::vector<int64_t> old = steps();
  old.resize(old.size() - std::min(old.size(), static_cast<size_t>(keep)));
  const std::optional<int64_t> best_step = best();
  for (const int64_t step : old)
    if (step != best_step) remove_checkpoint(path(step));
}

fs::path CheckpointStore::set_aside(int64_t step) const {
  const fs::path target = folder_ / fmt::format("damaged-{}", name_of(step));
  std::error_code error;
  fs::remove_all(target, error);
  if (error) throw_output_failure("remove", target, error.value());
  rename_or_throw("rename", path(step), target);
  return target;
}

}  // namespace perceiver
