// What a checkpoint holds besides tensors: the content of state.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "perceiver/config.h"
#include "perceiver/error.h"
#include "train/data_record.h"
#include "train/early_stopping.h"
#include "train/learner.h"

namespace perceiver {

/// A checkpoint's files are not what was written: truncated, changed or missing. Anything else that can go
/// wrong when reading one (no permission, no memory, a newer format) is another Error, and no reason to give
/// the checkpoint up.
class CheckpointDamage : public Error {
 public:
  explicit CheckpointDamage(const std::string& message) : Error(ErrorKind::user, message) {}
};

/// The lowest validation loss of a run so far.
struct BestValidation {
  int64_t step = 0;
  double loss = 0;  ///< nats per target
};

/// How many steps' gradients were clipped, of the steps with a finite one.
struct ClippedSteps {
  int64_t steps = 0;
  int64_t clipped = 0;

  /// NaN if there are no steps.
  double share() const { return static_cast<double>(clipped) / static_cast<double>(steps); }
};

struct CheckpointState {
  int64_t step = 0;            ///< steps done; also the data cursor: the next batch is that of this step
  int64_t updates = 0;         ///< steps that were not skipped
  int64_t skipped = 0;         ///< steps whose loss or gradient was not finite
  int64_t rejected = 0;        ///< consecutive ones at the end
  double elapsed = 0;          ///< seconds of training, including those before resuming
  std::optional<double> loss;  ///< nats per target of the last step
  std::optional<double> validation_loss;  ///< nats per target of the last validation
  int64_t validated = -1;                 ///< step of the last validation; -1: none
  std::optional<BestValidation> best;
  LossSums interval;      ///< since the last entry of the metrics
  ClippedSteps clipping;  ///< likewise
  Patience patience;
  DataRecord data;  ///< what the run trains on
  Config config;
};

/// A checkpoint's file as it was written.
struct FileRecord {
  uint64_t bytes = 0;
  uint64_t checksum = 0;  ///< XXH3-64
};

/// state.json as text, ending with its own checksum.
std::string state_to_json(const CheckpointState& state, const std::map<std::string, FileRecord>& files);

struct ParsedState {
  CheckpointState state;
  std::map<std::string, FileRecord> files;
};
/// Parses state_to_json's text; `source` names it in errors. Throws CheckpointDamage for text that is not
/// JSON or does not match its checksum, `user` for a newer format version and for content this version does
/// not understand.
ParsedState state_from_json(std::string_view text, const std::string& source);

}  // namespace perceiver
