// A training run's progress as text for people.
#pragma once

#include <ostream>
#include <string>

#include "train/observer.h"

namespace perceiver {

/// "step 1200/5000  loss 1.2345 nats 1.7810 bits  lr 3.00e-04  12.3k tokens/s  3:25 left"; tokens are
/// targets.
std::string progress_line(const LogEntry& entry);
/// "step 1200  validation loss 1.2345 nats 1.7810 bits, 1.7790 bits per byte (best so far)".
std::string progress_line(const EvalEntry& entry);

/// "0:07", "12:34", "3:05:09", "2d 03:05".
std::string duration_text(double seconds);

/// Writes a run's progress to a stream: on a terminal the log entries rewrite one line, elsewhere each is a
/// line of its own.
class Progress final : public TrainObserver {
 public:
  Progress(std::ostream& out, bool terminal) : out_(out), terminal_(terminal) {}
  ~Progress() override { end_line(); }

  void on_log(const LogEntry& entry) override;
  void on_eval(const EvalEntry& entry) override { write_line(progress_line(entry)); }
  void on_checkpoint(int64_t step, const std::filesystem::path& path) override;
  void on_message(const std::string& message) override { write_line(message); }

 private:
  void write_line(const std::string& line);
  /// Leaves a rewritten line standing.
  void end_line();

  std::ostream& out_;
  bool terminal_;
  bool open_ = false;  ///< whether the cursor stands behind a line to be rewritten
};

}  // namespace perceiver
