// The checkpoints of a run: which there are, which is the best, which are kept.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

namespace perceiver {

/// The folder checkpoints/ of a run: `step-000000100` and so on, and `best`, a relative link to one of them.
/// Every change is one rename, so that a process killed at any moment leaves whole checkpoints and a `best`
/// that points to one.
class CheckpointStore {
 public:
  /// The folder need not exist before `prepare`.
  explicit CheckpointStore(std::filesystem::path folder) : folder_(std::move(folder)) {}

  /// Creates the folder and clears away what killed processes left unfinished.
  void prepare() const;

  /// Steps of the checkpoints there are, rising.
  std::vector<int64_t> steps() const;
  std::filesystem::path path(int64_t step) const;

  /// Where `best` points to, if to a checkpoint that is there.
  std::optional<int64_t> best() const;
  void set_best(int64_t step) const;
  void clear_best() const;

  /// Removes all checkpoints but the newest `keep` and the best.
  void prune(int64_t keep) const;

  /// Renames a checkpoint that cannot be used to damaged-…, out of the way of its successor.
  std::filesystem::path set_aside(int64_t step) const;

 private:
  std::filesystem::path folder_;
};

}  // namespace perceiver
