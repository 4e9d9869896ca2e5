#include "report/report_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <initializer_list>
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

constexpr SampleType kSampleTypes[] = {
    {".txt", "text", "text/plain"},  {".png", "image", "image/png"}, {".jpg", "image", "image/jpeg"},
    {".mid", "music", "audio/midi"}, {".wav", "audio", "audio/wav"}, {".flac", "audio", "audio/flac"},
};

/// Of a file that may vanish; empty if it cannot be read.
std::string bytes_of(const std::filesystem::path& path) {
  try {
    return read_file(path, kMostSample);
  } catch (const Error&) {
    return {};
  }
}

/// Adds what the sample holds, if there is room.
void carry(const SampleFile& sample, uint64_t& left, ordered_json& data) {
  const SampleType type = sample_type(sample.path);
  const std::string bytes = type.kind == "other" ? std::string() : bytes_of(sample.path);
  if (bytes.empty() || bytes.size() > left) {
    data["kind"] = "other";
    return;
  }
  left -= bytes.size();
  if (type.kind == "text") {
    data["text"] = bytes;
  } else {
    data["base64"] = to_base64(bytes);
    data["type"] = type.type;
  }
}

ordered_json config_data(const RunRecord& run) {
  ordered_json values = ordered_json::object();
  if (!run.config) return values;
  for (const ConfigKey& key : config_keys()) values[key.path] = format_value(key, *run.config);
  return values;
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

/// JavaScript modules as one: without what they import from each other, and "export".
std::string as_one_module(std::initializer_list<std::string_view> paths) {
  constexpr std::string_view import = "import ", exported = "export ";
  std::string all;
  for (const std::string_view path : paths) {
    std::string_view rest = web_file(path);
    while (!rest.empty()) {
      std::string_view line = rest.substr(0, std::min(rest.find('\n'), rest.size() - 1) + 1);
      rest.remove_prefix(line.size());
      if (line.starts_with(import)) continue;
      if (line.starts_with(exported)) line.remove_prefix(exported.size());
      all += line;
    }
  }
  return all;
}

void replace(std::string& page, std::string_view mark, const std::string& text) {
  const size_t place = page.find(mark);
  PERCEIVER_ASSERT(place != std::string::npos);
  page.replace(place, mark.size(), text);
}

std::string page_with(const std::string& style, const std::string& list, const std::string& script) {
  std::string page(web_file("/report.html"));
  replace(page, "<!--STYLE-->", style);
  replace(page, "<!--LIST-->", list);
  replace(page, "<!--SCRIPT-->", script);
  return page;
}

}  // namespace

SampleType sample_type(const std::filesystem::path& path) {
  for (const SampleType& each : kSampleTypes)
    if (path.extension() == each.ending) return each;
  return {"", "other", "application/octet-stream"};
}

ordered_json run_data(const RunRecord& run) {
  ordered_json data{{"name", run.name},
                    {"folder", run.folder.string()},
                    {"state", name_of(run.state)},
                    {"step", run.step},
                    {"steps", run.config ? run.config->planned_steps() : 0},
                    {"entries", run.entries},
                    {"validations", run.validations},
                    {"environments", run.environments},
                    {"checkpoints", run.checkpoints},
                    {"config", config_data(run)},
                    {"config_text", run.config_text},
                    {"config_error", run.config_error},
                    {"samples", ordered_json::array()}};
  if (run.best_checkpoint) data["best_checkpoint"] = *run.best_checkpoint;
  for (const SampleFile& sample : run.samples)
    data["samples"].push_back({{"step", sample.step},
                               {"name", sample.path.filename().string()},
                               {"kind", sample_type(sample.path).kind}});
  return data;
}

ordered_json report_data(const std::vector<RunRecord>& runs) {
  ordered_json data{{"version", version()}, {"made", now()}, {"runs", ordered_json::array()}};
  uint64_t left = kMostSamples;
  for (const RunRecord& run : runs) {
    ordered_json one = run_data(run);
    for (size_t i = 0; i < run.samples.size(); ++i) carry(run.samples[i], left, one["samples"][i]);
    data["runs"].push_back(std::move(one));
  }
  return data;
}

std::string report_page(const std::vector<RunRecord>& runs) {
  const std::string script = as_one_module({"/midi.js", "/roll.js", "/synth.js", "/report.js"});
  return page_with(fmt::format("<style>{}</style>", web_file("/report.css")), "",
                   fmt::format("<script type=\"application/json\" id=\"data\">{}</script>\n<script "
                               "type=\"module\">\n{}</script>",
                               script_safe(report_data(runs)), script));
}

std::string live_page() {
  return page_with(
      R"(<link rel="icon" href="icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="report.css">)",
      R"(<section aria-label="All runs"><div class="scroll"><table id="all-runs"></table></div></section>)",
      R"(<script type="module" src="live.js"></script>)");
}

}  // namespace perceiver
