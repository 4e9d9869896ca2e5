// The folder of a run: config.yaml, metrics.jsonl, checkpoints/, samples/, tensorboard/.
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

/// Creates the folder if it is missing and keeps it locked: one process at a time trains there.
class RunFolder {
 public:
  /// Throws `user` when another process trains there, `failure` when it cannot be created.
  explicit RunFolder(std::filesystem::path path);

  std::string name() const { return path_.string(); }
  std::filesystem::path config() const { return path_ / "config.yaml"; }
  std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path tensorboard() const { return path_ / "tensorboard"; }
  std::filesystem::path samples() const { return path_ / "samples"; }
  const CheckpointStore& checkpoints() const { return checkpoints_; }

  /// Throws `user` if the folder already holds a run, even one without a checkpoint.
  void require_no_run() const;
  /// Throws `user` unless a run was started here.
  void require_started() const;
  /// The newest checkpoint whose files are intact; throws `user` if there is none. An error that prevents
  /// reading one but says nothing about its content is rethrown: skipping that checkpoint would lose steps.
  ResumePoint find_resume_point() const;

 private:
  /// Whether a run left anything here besides checkpoints.
  bool has_traces() const;

  std::filesystem::path path_;
  FileDescriptor lock_;
  CheckpointStore checkpoints_;
};

}  // namespace perceiver
