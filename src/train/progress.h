// A training run's progress as text for people.
#pragma once

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

}  // namespace perceiver
