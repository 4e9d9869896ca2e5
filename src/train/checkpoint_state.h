// What a checkpoint knows beside its tensors: the content of state.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "perceiver/config.h"
#include "perceiver/error.h"
#include "train/learner.h"

namespace perceiver {

/// A checkpoint's files are not what was written: cut, changed or missing. Everything else that can go wrong
/// with reading one (no permission, no memory, a newer format) is another Error, and no reason to give it up.
class CheckpointDamage : public Error {
 public:
  explicit CheckpointDamage(const std::string& message) : Error(ErrorKind::user, message) {}
};

/// The smallest validation loss of a run so far.
struct BestValidation {
  int64_t step = 0;
  double loss = 0;  ///< nats per target
};

struct CheckpointState {
  int64_t step = 0;            ///< steps done; also the data cursor: the step whose batch comes next
  int64_t updates = 0;         ///< steps that were not skipped
  int64_t skipped = 0;         ///< steps whose loss or gradient was not finite
  int64_t rejected = 0;        ///< of these, the last ones in a row
  double elapsed = 0;          ///< seconds of training, those before resuming included
  std::optional<double> loss;  ///< nats per target of the last step
  std::optional<double> validation_loss;  ///< nats per target of the last validation
  int64_t validated = -1;                 ///< step of the last validation; -1: none
  std::optional<BestValidation> best;
  LossSums interval;  ///< since the last entry of the metrics
  Config config;
};

/// A file of a checkpoint as it was written.
struct FileRecord {
  uint64_t bytes = 0;
  uint64_t checksum = 0;  ///< XXH3-64
};

/// state.json as text, closed by a checksum of its own.
std::string state_to_json(const CheckpointState& state, const std::map<std::string, FileRecord>& files);

struct ParsedState {
  CheckpointState state;
  std::map<std::string, FileRecord> files;
};
/// Reads state_to_json's text; `source` names it in errors. Throws CheckpointDamage for what is no JSON or
/// does not fit its checksum, `user` for a newer format version and for what this version cannot make sense
/// of.
ParsedState state_from_json(std::string_view text, const std::string& source);

}  // namespace perceiver
