// What a run tells at its start and at its end, and as text for people.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "train/data_record.h"
#include "train/memory_estimate.h"
#include "train/observer.h"

namespace perceiver {

struct RunHeader {
  std::filesystem::path folder;  ///< of the run; empty: none is made
  Config config;
  int64_t step = 0;  ///< where it starts: above 0 if it was resumed
  int64_t parameters = 0;
  std::string modality;
  bool generated = false;  ///< the data, without end
  DataRecord data;
  int64_t skipped_files = 0, repaired_files = 0;
  double steps_per_epoch = 0;  ///< in which every target is trained once on average; 0: generated data
  std::string device;
  bool gpu = false;
  int threads = 0;
  int ranks = 1;
  std::string communicator;  ///< that connects several ranks
  DType type = DType::f32;
  MemoryEstimate memory;
  int64_t program_bytes = 0;    ///< of this process without the model: the program, its libraries, the data
  int64_t available_bytes = 0;  ///< on the device, with what the model holds already
};

/// The header of a run on that model with that data, before its first step. `program_bytes` is the
/// size of the process before the model was made.
RunHeader make_header(const Config& config, const Dataset& data, const DataRecord& record,
                      const PerceiverAR& model, const Learner& learner, int64_t program_bytes);

/// One line for each of model, data, device, memory, steps and folder, aligned.
std::vector<std::string> header_lines(const RunHeader& header);

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
std::vector<std::string> summary_lines(const RunSummary& summary);

/// "1.50 MiB", "12.3 GiB".
std::string bytes_text(int64_t bytes);

}  // namespace perceiver
