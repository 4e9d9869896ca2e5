// A training run's progress as text for people.
#pragma once

#include <string>
#include <vector>

#include "perceiver/train_report.h"

namespace perceiver {

/// A part of a line that may have to be shortened: parts of high rank go first.
struct LineField {
  std::string text;  ///< with the space before it
  int rank = 0;
};

/// progress_line in fields; tokens are targets, the gradient's norm is that of the last step.
std::vector<LineField> progress_fields(const LogEntry& entry);

/// "0:07", "12:34", "3:05:09", "2d 03:05".
std::string duration_text(double seconds);

}  // namespace perceiver
