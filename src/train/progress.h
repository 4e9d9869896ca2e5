// A training run's progress as text for people.
#pragma once

#include <string>
#include <vector>

#include "train/observer.h"

namespace perceiver {

/// A part of a line that may have to be shortened: parts of high rank go first.
struct LineField {
  std::string text;  ///< with the space before it
  int rank = 0;
};

/// "step 1200/5000  loss 1.2345 nats 1.7810 bits  lr 3.00e-04  gradient 0.52, 12% clipped  12.3k tokens/s
/// 3:25 left  2 skipped", in fields; tokens are targets, the gradient's norm is that of the last step. What
/// does not apply is left out.
std::vector<LineField> progress_fields(const LogEntry& entry);
/// All of them.
std::string progress_line(const LogEntry& entry);
/// "step 1200  validation loss 1.2345 nats 1.7810 bits, 1.7790 bits per byte (best so far)".
std::string progress_line(const EvalEntry& entry);

/// "0:07", "12:34", "3:05:09", "2d 03:05".
std::string duration_text(double seconds);

}  // namespace perceiver
