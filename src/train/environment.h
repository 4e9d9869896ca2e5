// On what and with what a run was made: a line of environment.jsonl for each time it was started or resumed.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "model/perceiver_ar.h"
#include "train/data_record.h"
#include "train/run_folder.h"

namespace perceiver {

/// What the stamp records besides the machine and the program.
struct RunContext {
  int64_t step = 0;                            ///< the first step that follows, counted from 0
  std::vector<std::string> command;            ///< as started; empty: unknown
  uint64_t seed = 0;                           ///< train.seed
  Precision precision = Precision::automatic;  ///< train.precision
  DataRecord data;
  int ranks = 1;
  std::string communicator = {};  ///< that connects them; empty: one rank
};

/// {"started" (UTC, ISO 8601), "step", "version", "commit", "compiler", "host", "system", "kernel",
/// "processor", "device", "driver" (GPU only), "threads", "precision", "command", "folder" (the working
/// folder), "seed", "data" {"fingerprint", "train" {"documents", "tokens"}, …}}. Text that is not UTF-8 has
/// U+FFFD in its place.
nlohmann::ordered_json environment_stamp(const RunContext& run, const PerceiverAR& model);

/// Adds a line to the file of the folder, which is replaced as a whole.
void append_environment(const RunFolder& folder, const RunContext& run, const PerceiverAR& model);

/// The stamps of a run folder, oldest first; none if the file is missing. Throws `user` for a file that
/// cannot be read as such.
std::vector<nlohmann::ordered_json> read_environment(const std::filesystem::path& run_folder);

/// Writes the lists of skipped and repaired files, {"path", "reason"} and {"path", "repair"} a line; removes
/// those that would be empty.
void write_file_remarks(const RunFolder& folder, const Dataset& data);

}  // namespace perceiver
