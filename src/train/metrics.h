// metrics.jsonl: one JSON object per log entry, one a line.
#pragma once

#include <filesystem>
#include <string>

#include "io/atomic_file.h"
#include "perceiver/train_report.h"

namespace perceiver {

/// {"step", "loss" (nats per target), "bits", "objective", "z_loss", "accuracy", "gradient_norm",
/// "learning_rate", "targets_per_second", "inputs_per_second", "elapsed" (seconds), "skipped",
/// "clipped" (fraction of steps), "memory_bytes"}; null for a
/// non-finite number; "partial": true if the run stopped before the entry was due.
std::string metrics_line(const LogEntry& entry);
/// {"step", "validation_loss" (nats per target), "validation_bits", "validation_seconds", "elapsed"
/// (seconds, when it ended)}, and "validation_bits_per_<unit>" where known; "by_position": [[index of the
/// first target, targets, nats per target], …].
std::string metrics_line(const EvalEntry& entry);

/// Makes the file what an uninterrupted run would have written up to `last_step`: removes the lines of later
/// steps, partial entries (the next one covers their steps too) and anything that is not an entry (such as a
/// line that a killed process left unfinished). Rewrites it atomically; does nothing if it is missing.
void drop_metrics_after(const std::filesystem::path& path, int64_t last_step);

/// The file, open for appending; each line is one write. Errors are `failure`s.
class MetricsFile {
 public:
  explicit MetricsFile(const std::filesystem::path& path);
  void add(const LogEntry& entry) { output_.write(metrics_line(entry) + "\n"); }
  void add(const EvalEntry& entry) { output_.write(metrics_line(entry) + "\n"); }

 private:
  OutputFile output_;
};

}  // namespace perceiver
