// The checkpoints of a run: which exist, which is the best, which are kept.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

namespace perceiver {

/// The folder checkpoints/ of a run: `step-000000100` etc., and `best`, a relative link to one of them. Every
/// change is one rename: a process killed at any moment leaves whole checkpoints and a `best` that points to
/// one.
class CheckpointStore {
 public:
  /// The folder need not exist before `prepare`.
  explicit CheckpointStore(std::filesystem::path folder) : folder_(std::move(folder)) {}

  /// Creates the folder and removes unfinished files of killed processes.
  void prepare() const;

  /// Steps of the existing checkpoints, ascending.
  std::vector<int64_t> steps() const;
  std::filesystem::path path(int64_t step) const;

  /// The checkpoint that `best` points to, if it exists.
  std::optional<int64_t> best() const;
  void set_best(int64_t step) const;
  void clear_best() const;

  /// Removes all checkpoints except the newest `keep` and the best.
  void prune(int64_t keep) const;

  /// Renames an unusable checkpoint to damaged-…, out of the way of its successor.
  std::filesystem::path set_aside(int64_t step) const;

 private:
  std::filesystem::path folder_;
};

}  // namespace perceiver
