// What a run tells at its start; header_lines and summary_lines (perceiver/train_report.h) are it as text.
#pragma once

#include <cstdint>
#include <string>

#include "perceiver/train_report.h"
#include "train/data_record.h"
#include "train/memory_estimate.h"

namespace perceiver {

/// The header of a run on that model with that data, before its first step. `program_bytes` is the
/// size of the process before the model was made.
RunHeader make_header(const Config& config, const Dataset& data, const DataRecord& record,
                      const PerceiverAR& model, const Learner& learner, int64_t program_bytes);

/// "1.50 MiB", "12.3 GiB".
std::string bytes_text(int64_t bytes);

}  // namespace perceiver
