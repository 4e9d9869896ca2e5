// The folder of a run: config.yaml, metrics.jsonl, environment.jsonl, checkpoints/, samples/, tensorboard/.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "io/file_descriptor.h"
#include "train/checkpoint_state.h"
#include "train/checkpoint_store.h"

namespace perceiver {

/// A checkpoint that failed verification, and why.
struct DamagedCheckpoint {
  int64_t step = 0;
  std::string reason;
};

struct ResumePoint {
  CheckpointState state;
  std::vector<DamagedCheckpoint> damaged;  ///< newer ones that were skipped, newest first
};

/// Throws `user` if the folder already holds a run, even one without a checkpoint. Only looks.
void require_no_run(const std::filesystem::path& folder);

/// Creates the folder if it is missing and keeps it locked: one process at a time trains there.
class RunFolder {
 public:
  /// Throws `user` when another process trains there, `failure` when it cannot be created.
  explicit RunFolder(std::filesystem::path path);
  /// The folder that another rank of the same run has opened, for reading. Throws `failure` if it is not
  /// there.
  static RunFolder opened_elsewhere(std::filesystem::path path);

  std::string name() const { return path_.string(); }
  std::filesystem::path config() const { return path_ / "config.yaml"; }
  std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path tensorboard() const { return path_ / "tensorboard"; }
  std::filesystem::path samples() const { return path_ / "samples"; }
  std::filesystem::path environment() const { return path_ / "environment.jsonl"; }
  std::filesystem::path skipped_files() const { return path_ / "skipped_files.jsonl"; }
  std::filesystem::path repaired_files() const { return path_ / "repaired_files.jsonl"; }
  const CheckpointStore& checkpoints() const { return checkpoints_; }

  /// Looks whether the folder is still where it was opened; a few system calls. If it was moved, this object
  /// follows it: from then on every path is the new one, and `moved` is true. Throws `failure` if the folder
  /// was removed, or moved to a place that cannot be found.
  void check_place();
  bool moved() const { return !moved_from_.empty(); }
  /// Where it was opened, if it was moved.
  const std::filesystem::path& moved_from() const { return moved_from_; }
  /// Throws `user` unless a run was started here.
  void require_started() const;
  /// The newest checkpoint whose files are intact; throws `user` if there is none. An error that prevents
  /// reading one but says nothing about its content is rethrown: skipping that checkpoint would lose steps.
  ResumePoint find_resume_point() const;

 private:
  RunFolder(std::filesystem::path path, FileDescriptor lock);

  std::filesystem::path path_, moved_from_;
  FileDescriptor lock_;
  CheckpointStore checkpoints_;
};

}  // namespace perceiver
