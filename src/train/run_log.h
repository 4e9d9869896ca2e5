// Where the entries of a run go: the metrics file, TensorBoard, the observer.
#pragma once

#include <optional>

#include "perceiver/train_report.h"
#include "train/metrics.h"
#include "train/run_folder.h"
#include "train/tensorboard.h"

namespace perceiver {

class RunLog {
 public:
  /// Continues the files of `folder` after `step`: later entries are dropped. `folder` and `observer` may be
  /// null.
  RunLog(const RunFolder* folder, int64_t step, bool tensorboard, TrainObserver* observer);
  /// Goes nowhere: for the ranks that do not lead.
  RunLog() = default;

  void add(const LogEntry& entry);
  void add(const EvalEntry& entry);
  void add(const SampleEntry& entry);
  void checkpoint(int64_t step, const std::filesystem::path& path);
  void message(const std::string& text);  ///< for information
  void warn(const std::string& text);

 private:
  std::optional<MetricsFile> metrics_;
  std::optional<EventFile> events_;
  TrainObserver* observer_ = nullptr;
};

}  // namespace perceiver
