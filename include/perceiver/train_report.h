// What a training run reports. The library prints nothing: the caller passes an observer.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "perceiver/config.h"
#include "perceiver/dataset.h"
#include "perceiver/export.h"

namespace perceiver {

// ---- the beginning of a run -------------------------------------------------------------------------------

/// What a run knows about its data, kept in its checkpoints to notice that they changed. All zero for data
/// that are generated.
struct DataRecord {
  struct Part {
    int64_t documents = 0;
    int64_t tokens = 0;  ///< of all documents, including SOS and EOS
  };
  uint64_t fingerprint = 0;  ///< of the content; 0: unknown
  std::array<Part, 3> splits;

  const Part& of(Split split) const { return splits[static_cast<size_t>(split)]; }
  bool empty() const { return *this == DataRecord(); }

  friend bool operator==(const Part& a, const Part& b) {
    return a.documents == b.documents && a.tokens == b.tokens;
  }
  friend bool operator!=(const Part& a, const Part& b) { return !(a == b); }
  friend bool operator==(const DataRecord& a, const DataRecord& b) {
    return a.fingerprint == b.fingerprint && a.splits == b.splits;
  }
};

/// Bytes on the device that trains: what tensors hold at the worst moment of a step. Not counted: the program
/// itself and its libraries, the data, and on a GPU the driver's context.
struct MemoryEstimate {
  int64_t weights = 0;  ///< with the bf16 copy that a bf16 model reads
  int64_t gradients = 0;
  int64_t optimizer = 0;
  int64_t average = 0;      ///< moving average of the weights
  int64_t activations = 0;  ///< of a micro-batch of whole rows: kept for backward, and its working memory

  int64_t total() const { return weights + gradients + optimizer + average + activations; }
};

struct RunHeader {
  std::filesystem::path folder;  ///< of the run; empty: none is made
  Config config;                 ///< with its automatic values
  int64_t step = 0;              ///< where it starts: above 0 if it was resumed
  int64_t parameters = 0;
  std::string modality;
  bool generated = false;  ///< the data, without end
  DataRecord data;
  int64_t skipped_files = 0, repaired_files = 0;
  double steps_per_epoch = 0;  ///< in which every target is trained once on average; 0: generated data
  std::string device;          ///< its name
  bool gpu = false;
  int threads = 0;
  int ranks = 1;
  std::string communicator;  ///< that connects several ranks
  std::string precision;     ///< of the computation: "bf16", "f32" or "f64"
  MemoryEstimate memory;
  int64_t program_bytes = 0;    ///< of this process without the model: the program, its libraries, the data
  int64_t available_bytes = 0;  ///< on the device, with what the model holds already
};

/// One line for each of model, data, device, memory, steps and folder, aligned.
PERCEIVER_API std::vector<std::string> header_lines(const RunHeader& header);

// ---- on the way -------------------------------------------------------------------------------------------

/// Every train.log_every steps and at the last one: means over the finite steps since the previous entry (NaN
/// if there were none), and the last step's gradient norm and learning rate.
struct LogEntry {
  int64_t step = 0;          ///< steps done
  int64_t steps = 0;         ///< train.steps; 0: schedule.until ends the run
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
  /// Fraction of the interval's finite steps whose gradient was clipped; NaN: no clipping.
  double clipped = 0;
  int64_t memory_bytes = 0;  ///< most that tensors held on the device so far; 0: unknown
  bool partial = false;      ///< the run stopped before the entry was due

  double bits() const { return loss / 0.6931471805599453; }
};

/// The loss of targets by their place in the document.
struct PositionLoss {
  int64_t first = 0;   ///< index of the first target
  int64_t tokens = 0;  ///< targets
  double loss = 0;     ///< nats per target
};

struct EvalEntry {
  int64_t step = 0;
  double loss = 0;  ///< nats per target
  std::optional<double> bits_per_unit;
  std::string unit;      ///< e.g. "byte"
  double seconds = 0;    ///< duration of the validation
  double elapsed = 0;    ///< seconds of training when it ended, including those before resuming
  bool is_best = false;  ///< lowest loss of the run so far
  std::vector<PositionLoss> by_position;

  double bits() const { return loss / 0.6931471805599453; }
};

/// What the model generates during training.
struct SampleEntry {
  int64_t step = 0;
  std::filesystem::path path;  ///< the file it was written to
  std::string text;            ///< its content if that is text (valid UTF-8), else empty
};

/// A line for people: "step 1200/5000  loss 1.2345 nats 1.7810 bits  lr 3.00e-04  gradient 0.52, 12% clipped
/// 12.3k tokens/s  3:25 left  2 skipped". What does not apply is left out.
PERCEIVER_API std::string progress_line(const LogEntry& entry);
/// "step 1200  validation loss 1.2345 nats 1.7810 bits, 1.7790 bits per byte (best so far)".
PERCEIVER_API std::string progress_line(const EvalEntry& entry);

enum class Severity { info, warning };

/// To be derived from. All members are called by the thread that runs the run (messages also by the one that
/// opens it), between steps, so the run waits for them. What they throw ends the run like a failure and comes
/// out of TrainingRun unchanged. Of several ranks, rank 0 reports.
class PERCEIVER_API TrainObserver {
 public:
  virtual ~TrainObserver();
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

// ---- the end ----------------------------------------------------------------------------------------------

/// A validation, as far as it is known: a resumed run knows only the loss of earlier ones.
struct ValidationSummary {
  int64_t step = 0;
  double loss = 0;  ///< nats per target
  std::optional<double> bits_per_unit;
  std::string unit;
};

struct RunSummary {
  int64_t step = 0;
  double seconds = 0;             ///< of this process
  double elapsed = 0;             ///< of the run, with those before resuming
  double targets_per_second = 0;  ///< of this process, in steps alone; 0: no steps
  int64_t skipped = 0;            ///< steps of the run that were not finite
  std::optional<ValidationSummary> best, last;
  std::filesystem::path folder, best_checkpoint;  ///< the latter empty if none was kept
};

/// Time and speed in a line, then the validations and the best checkpoint, if any.
PERCEIVER_API std::vector<std::string> summary_lines(const RunSummary& summary);

}  // namespace perceiver
