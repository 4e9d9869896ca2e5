// What a run folder holds, for people to look at. Read from its files alone, while another process may be
// writing them: what is not there yet, or not whole, is left out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "perceiver/config.h"

namespace perceiver {

enum class RunState {
  running,   ///< a process on this machine trains in the folder
  finished,  ///< all steps are done
  stopped,   ///< neither
};

/// "running", "finished" or "stopped".
const char* name_of(RunState state);

struct SampleFile {
  int64_t step = 0;
  std::filesystem::path path;
};

struct RunRecord {
  std::filesystem::path folder;
  std::string name;  ///< of the folder
  RunState state = RunState::stopped;
  int64_t step = 0;                                 ///< of the newest entry; 0: none
  double elapsed = 0;                               ///< seconds of training up to it
  std::string config_text;                          ///< config.yaml as it is
  std::optional<Config> config;                     ///< none if this program does not understand it
  std::string config_error;                         ///< why
  std::vector<nlohmann::ordered_json> entries;      ///< of metrics.jsonl, with "loss"
  std::vector<nlohmann::ordered_json> validations;  ///< of metrics.jsonl, with "validation_loss"
  std::vector<nlohmann::ordered_json> environments;
  std::vector<int64_t> checkpoints;  ///< steps, ascending
  std::optional<int64_t> best_checkpoint;
  std::vector<SampleFile> samples;  ///< by step

  /// The validation with the lowest loss, or null.
  const nlohmann::ordered_json* best_validation() const;
};

/// Throws `user` for a folder without config.yaml or metrics.jsonl.
RunRecord read_run(const std::filesystem::path& folder);
/// The same without its metrics: no step, entries, validations and state.
RunRecord read_run_files(const std::filesystem::path& folder);
/// Of a run that has come to its `step` and `elapsed`.
RunState state_of(const RunRecord& run);
/// Whether a validation has a lower loss than `best`, which may be null.
bool is_better(const nlohmann::ordered_json& validation, const nlohmann::ordered_json* best);

/// The folders of runs in `folder`, itself included, at most three levels down, sorted by name. Throws `user`
/// if it is not a folder.
std::vector<std::filesystem::path> find_runs(const std::filesystem::path& folder);

}  // namespace perceiver
