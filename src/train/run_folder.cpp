#include "train/run_folder.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/check.h"
#include "base/plural.h"
#include "io/atomic_folder.h"
#include "io/temporary_name.h"
#include "train/checkpoint.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;

FileDescriptor create_locked(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw_output_failure("create the folder", path, error.value());
  FileDescriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid()) throw_output_failure("open the folder", path, errno);
  if (!try_lock(folder))
    throw_user(
        "{}: another process is training in this folder; wait for it, stop it, or choose another folder",
        path.string());
  return folder;
}

}  // namespace

RunFolder::RunFolder(fs::path path)
    : path_(std::move(path)), lock_(create_locked(path_)), checkpoints_(path_ / "checkpoints") {
  remove_stale_temporaries(path_);
  checkpoints_.prepare();
}

bool RunFolder::has_traces() const {
  const std::array paths{config(), metrics(), tensorboard()};
  return std::ranges::any_of(paths, [](const fs::path& path) {
    std::error_code ignored;
    return fs::exists(fs::symlink_status(path, ignored));
  });
}

void RunFolder::require_no_run() const {
  const std::vector<int64_t> steps = checkpoints_.steps();
  if (!steps.empty())
    throw_user(
        "{} already holds a run of {}: continue it with --resume, or start the new run in another "
        "folder",
        name(), counted(steps.back(), "step"));
  if (has_traces())
    throw_user(
        "{} already holds a run that saved no checkpoint: start it over with --resume, delete the folder, "
        "or choose another",
        name());
}

void RunFolder::require_started() const {
  if (!has_traces())
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
