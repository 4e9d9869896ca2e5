// The folder of a run: config.yaml, metrics.jsonl, checkpoints/, tensorboard/.
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
  std::vector<DamagedCheckpoint> damaged;  ///< newer ones that were passed over, newest first
};

/// Creates the folder where it is missing and keeps it locked: one process at a time trains there.
class RunFolder {
 public:
  /// Throws `user` when another process trains there, `failure` when it cannot be created.
  explicit RunFolder(std::filesystem::path path);

  std::string name() const { return path_.string(); }
  std::filesystem::path config() const { return path_ / "config.yaml"; }
  std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path tensorboard() const { return path_ / "tensorboard"; }
  const CheckpointStore& checkpoints() const { return checkpoints_; }

  /// Throws `user` when the folder holds a run already, be it one that has no checkpoint yet.
  void require_no_run() const;
  /// Throws `user` unless a run was begun here.
  void require_begun() const;
  /// The newest checkpoint whose files are what was written; throws `user` when there is none. What keeps one
  /// from being read, but says nothing about its content, is thrown on: passing it over would lose steps.
  ResumePoint find_resume_point() const;

 private:
  /// Whether a run left anything here beside checkpoints.
  bool has_traces() const;

  std::filesystem::path path_;
  FileDescriptor lock_;
  CheckpointStore checkpoints_;
};

}  // namespace perceiver
