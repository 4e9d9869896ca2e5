#include "report/report_page.h"

#include <ctime>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "config/schema.h"
#include "io/atomic_file.h"
#include "io/base64.h"
#include "perceiver/version.h"
#include "report/web_files.h"

namespace perceiver {
namespace {

using nlohmann::ordered_json;

constexpr uint64_t kMostSample = uint64_t{8} << 20, kMostSamples = uint64_t{64} << 20;

struct MediaType {
  std::string_view ending, kind, type;
};
constexpr MediaType kMediaTypes[] = {
    {".txt", "text", "text/plain"},  {".png", "image", "image/png"}, {".jpg", "image", "image/jpeg"},
    {".mid", "music", "audio/midi"}, {".wav", "audio", "audio/wav"}, {".flac", "audio", "audio/flac"},
};

MediaType type_of(const std::filesystem::path& path) {
  for (const MediaType& each : kMediaTypes)
    if (path.extension() == each.ending) return each;
  return {"", "other", "application/octet-stream"};
}

/// Of a file that may vanish; empty if it cannot be read.
std::string bytes_of(const std::filesystem::path& path) {
  try {
    return read_file(path, kMostSample);
  } catch (const Error&) {
    return {};
  }
}

ordered_json sample_data(const SampleFile& sample, uint64_t& left) {
  const MediaType media = type_of(sample.path);
  ordered_json data{{"step", sample.step}, {"name", sample.path.filename().string()}, {"kind", media.kind}};
  const std::string bytes = media.kind == "other" ? std::string() : bytes_of(sample.path);
  if (bytes.empty() || bytes.size() > left) {
    data["kind"] = "other";
    return data;
  }
  left -= bytes.size();
  if (media.kind == "text") {
    data["text"] = bytes;
  } else {
    data["base64"] = to_base64(bytes);
    data["type"] = media.type;
  }
  return data;
}

ordered_json config_data(const RunRecord& run) {
  ordered_json values = ordered_json::object();
  if (!run.config) return values;
  for (const ConfigKey& key : config_keys()) values[key.path] = format_value(key, *run.config);
  return values;
}

ordered_json run_data(const RunRecord& run, uint64_t& left) {
  ordered_json data{{"name", run.name},
                    {"folder", run.folder.string()},
                    {"state", name_of(run.state)},
                    {"step", run.step},
                    {"steps", run.config ? run.config->train.steps : 0},
                    {"entries", run.entries},
                    {"validations", run.validations},
                    {"environments", run.environments},
                    {"checkpoints", run.checkpoints},
                    {"config", config_data(run)},
                    {"config_text", run.config_text},
                    {"config_error", run.config_error},
                    {"samples", ordered_json::array()}};
  if (run.best_checkpoint) data["best_checkpoint"] = *run.best_checkpoint;
  for (const SampleFile& sample : run.samples) data["samples"].push_back(sample_data(sample, left));
  return data;
}

std::string now() {
  const std::time_t time = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&time, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", &utc);
  return text;
}

/// JSON inside <script>: "</script>" and "<!--" in a string would end it.
std::string script_safe(const ordered_json& data) {
  std::string text;
  for (const char c : data.dump(-1, ' ', false, ordered_json::error_handler_t::replace)) {
    if (c == '<')
      text += "\\u003c";
    else
      text += c;
  }
  return text;
}

std::string_view web_file(std::string_view path) {
  for (const WebFile& file : report::web_files())
    if (file.path == path) return file.bytes;
  throw_failure("internal error: no file {} in this program", path);
}

void replace(std::string& page, std::string_view mark, std::string_view text) {
  const size_t place = page.find(mark);
  PERCEIVER_ASSERT(place != std::string::npos);
  page.replace(place, mark.size(), text);
}

}  // namespace

ordered_json report_data(const std::vector<RunRecord>& runs) {
  ordered_json data{{"version", version()}, {"made", now()}, {"runs", ordered_json::array()}};
  uint64_t left = kMostSamples;
  for (const RunRecord& run : runs) data["runs"].push_back(run_data(run, left));
  return data;
}

std::string report_page(const std::vector<RunRecord>& runs) {
  std::string page(web_file("/report.html"));
  replace(page, "/*STYLE*/", web_file("/report.css"));
  replace(page, "/*SCRIPT*/", std::string(web_file("/midi.js")) + std::string(web_file("/report.js")));
  replace(page, "/*DATA*/", script_safe(report_data(runs)));
  return page;
}

}  // namespace perceiver
