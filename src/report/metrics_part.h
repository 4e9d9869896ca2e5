// Reading metrics.jsonl on from where one has come, while a training adds to it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace perceiver {

struct MetricsPart {
  int64_t step = 0;                             ///< of the newest entry of the part; 0: none
  double elapsed = 0;                           ///< seconds of training up to the newest entry that says it
  std::vector<nlohmann::ordered_json> entries;  ///< with "loss"
  std::vector<nlohmann::ordered_json> validations;  ///< with "validation_loss"
  std::string mark;                                 ///< of the part's end
  bool continues = false;  ///< what was read before still counts; else the part begins the file
  bool more = false;       ///< further lines are there already
};

/// The whole lines from `mark` on, about `most` bytes of them. An empty mark, and one of a file that has been
/// replaced since (a run that was resumed drops the entries after its checkpoint), mean the file's beginning.
/// Lines that are no entries are left out; a file that is not there has none. Throws `user` for a file that
/// cannot be read.
MetricsPart read_metrics(const std::filesystem::path& path, const std::string& mark, uint64_t most);

}  // namespace perceiver
