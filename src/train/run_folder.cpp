#include "train/run_folder.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <thread>

#include "base/check.h"
#include "base/plural.h"
#include "io/atomic_folder.h"
#include "io/temporary_name.h"
#include "train/checkpoint.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;

/// Who looks whether a run goes on (report/run_record.cpp) holds the lock for a moment.
bool lock_soon(const FileDescriptor& folder) {
  for (int tries = 0; tries < 20; ++tries) {
    if (try_lock(folder)) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

FileDescriptor create_locked(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw_output_failure("create the folder", path, error.value());
  FileDescriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid()) throw_output_failure("open the folder", path, errno);
  if (!lock_soon(folder))
    throw_user("{}: another run is training in this folder; wait for it, stop it, or choose another folder",
               path.string());
  return folder;
}

CheckpointStore checkpoints_of(const fs::path& folder) {
  return CheckpointStore(folder / "checkpoints");
}

/// Whether a run left anything here besides checkpoints.
bool has_traces(const fs::path& folder) {
  return std::ranges::any_of(std::array{"config.yaml", "metrics.jsonl", "tensorboard"},
                             [&](const char* name) {
                               std::error_code ignored;
                               return fs::exists(fs::symlink_status(folder / name, ignored));
                             });
}

/// Whether the path leads to this very folder. An error that says nothing about that counts as yes: a network
/// file system may be away for a moment.
bool leads_to(const fs::path& path, const struct stat& folder) {
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0) return errno != ENOENT && errno != ENOTDIR;
  return found.st_dev == folder.st_dev && found.st_ino == folder.st_ino;
}

}  // namespace

RunFolder::RunFolder(fs::path path) : RunFolder(path, create_locked(path)) {
  remove_stale_temporaries(path_);
  checkpoints_.prepare();
}

RunFolder::RunFolder(fs::path path, FileDescriptor lock)
    : path_(std::move(path)), lock_(std::move(lock)), checkpoints_(checkpoints_of(path_)) {}

RunFolder RunFolder::opened_elsewhere(fs::path path) {
  FileDescriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid())
    throw_failure(
        "{}: rank 0 has opened this run folder, but here it cannot be read ({}); put it on a file system "
        "that "
        "all ranks share",
        path.string(), std::error_code(errno, std::generic_category()).message());
  return RunFolder(std::move(path), std::move(folder));
}

void RunFolder::check_place() {
  struct stat folder {};
  if (::fstat(lock_.get(), &folder) != 0 || leads_to(path_, folder)) return;
  if (folder.st_nlink == 0)
    throw_failure("{}: the run folder was removed during training, so nothing can be saved; start again",
                  name());
  std::error_code error;
  const fs::path place = fs::read_symlink(fmt::format("/proc/self/fd/{}", lock_.get()), error);
  if (error || !leads_to(place, folder))
    throw_failure(
        "{}: the run folder was moved during training, so nothing can be saved; continue with --resume where "
        "it is now",
        name());
  if (!moved()) moved_from_ = path_;
  path_ = place;
  checkpoints_ = checkpoints_of(path_);
}

void require_no_run(const fs::path& folder) {
  const std::vector<int64_t> steps = checkpoints_of(folder).steps();
  if (!steps.empty())
    throw_user(
        "{} already holds a run of {}: continue it with --resume, or start the new run in another "
        "folder",
        folder.string(), counted(steps.back(), "step"));
  if (has_traces(folder))
    throw_user(
        "{} already holds a run that saved no checkpoint: start it over with --resume, delete the folder, "
        "or choose another",
        folder.string());
}

void RunFolder::require_started() const {
  if (!has_traces(path_))
    throw_user("{} holds no checkpoint to resume from; start the run without --resume", name());
}

ResumePoint RunFolder::find_resume_point() const {
  ResumePoint point;
  std::vector<int64_t> steps = checkpoints_.steps();
  std::reverse(steps.begin(), steps.end());
  for (const int64_t step : steps) {
    try {
      point.state = verify_checkpoint(checkpoints_.path(step));
      if (point.state.step != step)
        throw_user("{}: its state is that of step {}; rename the folder back",
                   checkpoints_.path(step).string(), point.state.step);
      return point;
    } catch (const CheckpointDamage& error) {
      point.damaged.push_back({step, error.what()});
    }
  }
  throw_user("{} holds no usable checkpoint ({} damaged; the newest: {}); start a new run in another folder",
             name(), point.damaged.size(), point.damaged.front().reason);
}

}  // namespace perceiver
