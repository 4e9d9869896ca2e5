// Entries of the training log for tests.
#pragma once

#include <string>

#include "perceiver/train_report.h"

namespace perceiver::testing {

inline LogEntry log_entry(int64_t step) {
  LogEntry entry;
  entry.step = step;
  entry.steps = 5000;
  entry.loss = 1.25;
  entry.objective = 1.5;
  entry.z_loss = 0.125;
  entry.accuracy = 0.75;
  entry.gradient_norm = 2;
  entry.learning_rate = 3e-4;
  entry.targets_per_second = 12345;
  entry.inputs_per_second = 99999;
  entry.elapsed = 60;
  entry.remaining = 205;
  entry.clipped = 0.25;
  return entry;
}

inline EvalEntry eval_entry(int64_t step) {
  EvalEntry entry;
  entry.step = step;
  entry.loss = 2;
  entry.bits_per_unit = 2.75;
  entry.unit = "byte";
  entry.seconds = 0.5;
  entry.elapsed = 60.5;
  return entry;
}

}  // namespace perceiver::testing
