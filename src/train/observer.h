// What a training run reports. The library prints nothing: the caller of a trainer passes an observer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <numbers>
#include <optional>
#include <string>

namespace perceiver {

/// Every train.log_every steps and at the last one: means over the finite steps since the previous entry (NaN
/// if there were none), and the last step's gradient norm and learning rate.
struct LogEntry {
  int64_t step = 0;          ///< steps done
  int64_t steps = 0;         ///< train.steps
  double loss = 0;           ///< negative log-likelihood, nats per target
  double objective = 0;      ///< what is minimised, per target: with label smoothing and z-loss
  double z_loss = 0;         ///< z-loss term per target
  double accuracy = 0;       ///< fraction of targets that were the most likely token
  double gradient_norm = 0;  ///< global, before clipping
  double learning_rate = 0;
  double targets_per_second = 0;
  double inputs_per_second = 0;  ///< tokens read, including the context
  double elapsed = 0;            ///< seconds of training, including those before resuming
  double remaining = 0;          ///< seconds, at the current speed
  int64_t skipped = 0;           ///< steps of the run whose loss or gradient was not finite
  double clipped =
      0;  ///< fraction of the interval's finite steps whose gradient was clipped; NaN: no clipping
  bool partial = false;  ///< the run stopped before the entry was due

  double bits() const { return loss / std::numbers::ln2; }
};

struct EvalEntry {
  int64_t step = 0;
  double loss = 0;  ///< nats per target
  std::optional<double> bits_per_unit;
  std::string unit;      ///< e.g. "byte"
  double seconds = 0;    ///< duration of the validation
  bool is_best = false;  ///< lowest loss of the run so far

  double bits() const { return loss / std::numbers::ln2; }
};

struct RunHeader;  // train/run_report.h

/// What the model generates during training.
struct SampleEntry {
  int64_t step = 0;
  std::filesystem::path path;  ///< the file it was written to
  std::string text;            ///< its content if that is text (valid UTF-8), else empty
};

enum class Severity { info, warning };

class TrainObserver {
 public:
  virtual ~TrainObserver() = default;
  /// Before the first step.
  virtual void on_start(const RunHeader&) {}
  virtual void on_log(const LogEntry&) {}
  virtual void on_eval(const EvalEntry&) {}
  virtual void on_sample(const SampleEntry&) {}
  /// A checkpoint is safely on disk.
  virtual void on_checkpoint(int64_t /*step*/, const std::filesystem::path&) {}
  /// Something worth a line of its own, e.g. resuming (info), a skipped step or damaged checkpoint (warning).
  virtual void on_message(Severity, const std::string&) {}
};

}  // namespace perceiver
