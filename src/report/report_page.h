// One page of HTML about some runs, which needs nothing else: curves, samples, configurations.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "report/run_record.h"

namespace perceiver {

/// What the page's script draws (web/report/report.js): {"version", "made", "runs": [{"name", "folder",
/// "state", "step", "steps", "entries", "validations", "environments", "checkpoints", "best_checkpoint",
/// "config" {"train.steps": "1000", …}, "config_text", "config_error", "samples": [{"step", "name", "kind"
/// ("text", "image", "music", "audio", "other"), "text" or "base64" and "type"}]}]}. Samples beyond 8 MiB
/// each or 64 MiB together are named only.
nlohmann::ordered_json report_data(const std::vector<RunRecord>& runs);

/// One of "runs". Of the samples "step", "name" and "kind".
nlohmann::ordered_json run_data(const RunRecord& run);

struct SampleType {
  std::string_view ending, kind, type;  ///< ".png", "image", "image/png"
};
/// By the file's ending; kind "other" for those that a page cannot show.
SampleType sample_type(const std::filesystem::path& path);

/// The page. Text of runs cannot break out of it.
std::string report_page(const std::vector<RunRecord>& runs);

/// The same without data, for a server: its parts are files beside it (web_files.h), and live.js (web/)
/// brings what is to be shown.
std::string live_page();

}  // namespace perceiver
