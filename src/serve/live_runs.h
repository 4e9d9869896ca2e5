// GET /v1/runs: training runs in a folder, while they go on.
#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>

#include "report/run_record.h"
#include "serve/reply.h"
#include "serve/scheduler.h"

namespace perceiver::serve {

/// Reads nothing outside the folder: runs and files that links lead out of it are left out. All members are
/// for any thread; they throw HttpError 404 for what is not there.
class LiveRuns {
 public:
  /// Throws perceiver::Error (`user`) if it is not a folder.
  explicit LiveRuns(const std::filesystem::path& folder);

  /// {"folder" (as it was given), "data": [{"id" (the path in the folder), "state", "step", "steps",
  /// "changed" (seconds since 1970), "best": the validation with the lowest loss, or null}]}. A second old at
  /// most.
  Reply list();
  /// The run as in a report, with its metrics since `mark`: "mark", to read on from; "continues": whether
  /// these follow the mark given; "more": whether the next part is there already. Of the newest samples
  /// "url".
  Reply data(const std::string& id, const std::string& mark);
  /// The file.
  Reply sample(const std::string& id, const std::string& name) const;

 private:
  /// What is known of a run's metrics, so that only new lines are read.
  struct Progress {
    std::string mark;
    int64_t step = 0;
    double elapsed = 0;           ///< seconds of training
    nlohmann::ordered_json best;  ///< or null
  };

  std::filesystem::path folder_of(const std::string& id) const;
  nlohmann::ordered_json summary(const std::filesystem::path& folder);
  /// Sets the run's step and elapsed.
  void update(RunRecord& run, const std::string& id);

  const std::string name_;
  const std::filesystem::path root_;
  std::mutex mutex_;  ///< of what follows
  std::map<std::string, Progress> progress_;
  std::string list_;
  Clock::time_point listed_;
};

}  // namespace perceiver::serve
