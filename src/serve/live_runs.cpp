#include "serve/live_runs.h"

#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "report/metrics_part.h"
#include "report/report_page.h"
#include "serve/http_error.h"

namespace perceiver::serve {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr uint64_t kPart = uint64_t{4} << 20;     ///< bytes of metrics in one answer
constexpr uint64_t kSample = uint64_t{64} << 20;  ///< bytes
constexpr size_t kSamples = 60;                   ///< of a run
constexpr std::chrono::seconds kFresh{1};

fs::path root_of(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) throw_user("--runs {}: no such folder", folder.string());
  return fs::canonical(folder, error);
}

/// Whether the path, links followed, is `root` or in it. Not if it does not exist.
bool is_inside(const fs::path& path, const fs::path& root) {
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  return !error && std::mismatch(root.begin(), root.end(), real.begin(), real.end()).first == root.end();
}

/// Whether what is read of a run is inside the root.
bool stays_inside(const fs::path& run, const fs::path& root) {
  if (!is_inside(run, root)) return false;
  for (const char* name : {"config.yaml", "metrics.jsonl", "environment.jsonl", "samples", "checkpoints"}) {
    std::error_code error;
    if (fs::exists(fs::symlink_status(run / name, error)) && !is_inside(run / name, root)) return false;
  }
  return true;
}

std::vector<fs::path> runs_in(const fs::path& root) {
  std::vector<fs::path> runs = find_runs(root);
  std::erase_if(runs, [&](const fs::path& run) { return !stays_inside(run, root); });
  return runs;
}

std::string id_of(const fs::path& run, const fs::path& root) {
  return run.lexically_relative(root).generic_string();
}

int64_t seconds_of(const fs::path& file) {
  std::error_code error;
  const fs::file_time_type time = fs::last_write_time(file, error);
  if (error) return 0;
  const auto since = std::chrono::file_clock::to_sys(time).time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(since).count();
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = std::isalnum(byte) != 0 || c == '-' || c == '_' || c == '.';
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", byte);
  }
  return out;
}

}  // namespace

LiveRuns::LiveRuns(const fs::path& folder) : name_(folder.string()), root_(root_of(folder)) {}

fs::path LiveRuns::folder_of(const std::string& id) const {
  for (const fs::path& run : runs_in(root_))
    if (id_of(run, root_) == id) return run;
  refuse(404, "there is no run {}; GET /v1/runs lists them", quote(id));
}

/// Reads the new lines.
void LiveRuns::update(RunRecord& run, const std::string& id) {
  Progress& progress = progress_[id];
  for (bool more = true; more;) {
    const MetricsPart part = read_metrics(run.folder / "metrics.jsonl", progress.mark, kPart);
    if (!part.continues) progress = {};
    progress.mark = part.mark;
    progress.step = std::max(progress.step, part.step);
    progress.elapsed = std::max(progress.elapsed, part.elapsed);
    for (const ordered_json& each : part.validations)
      if (is_better(each, progress.best.is_null() ? nullptr : &progress.best)) progress.best = each;
    more = part.more;
  }
  run.step = progress.step;
  run.elapsed = progress.elapsed;
}

ordered_json LiveRuns::summary(const fs::path& folder) {
  const std::string id = id_of(folder, root_);
  RunRecord run = read_run_files(folder);
  update(run, id);
  return {{"id", id},
          {"state", name_of(state_of(run))},
          {"step", run.step},
          {"steps", run.config ? run.config->planned_steps() : 0},
          {"changed", seconds_of(folder / "metrics.jsonl")},
          {"best", progress_[id].best}};
}

Reply LiveRuns::list() {
  const std::lock_guard lock(mutex_);
  if (!list_.empty() && Clock::now() - listed_ < kFresh) return {"application/json", list_, nullptr, {}};
  ordered_json all = ordered_json::array();
  std::map<std::string, Progress> before;
  std::swap(before, progress_);  // of runs that are gone nothing is kept
  for (const fs::path& folder : runs_in(root_)) {
    if (const auto known = before.find(id_of(folder, root_)); known != before.end())
      progress_.insert(before.extract(known));
    try {
      all.push_back(summary(folder));
    } catch (const Error&) {
    }  // it has just gone, or cannot be read
  }
  list_ = to_text({{"object", "list"}, {"folder", name_}, {"data", std::move(all)}});
  listed_ = Clock::now();
  return {"application/json", list_, nullptr, {}};
}

Reply LiveRuns::data(const std::string& id, const std::string& mark) {
  const fs::path folder = folder_of(id);
  RunRecord run = read_run_files(folder);
  MetricsPart part = read_metrics(folder / "metrics.jsonl", mark, kPart);
  run.entries = std::move(part.entries);
  run.validations = std::move(part.validations);
  {
    const std::lock_guard lock(mutex_);
    update(run, id);
  }
  run.state = state_of(run);
  std::erase_if(run.samples, [&](const SampleFile& sample) { return !is_inside(sample.path, root_); });
  if (run.samples.size() > kSamples)
    run.samples.erase(run.samples.begin(), run.samples.end() - static_cast<ptrdiff_t>(kSamples));
  ordered_json out = run_data(run);
  for (ordered_json& sample : out["samples"])
    sample["url"] = fmt::format("/v1/runs/sample?run={}&name={}", escaped(id),
                                escaped(sample["name"].get<std::string>()));
  out["mark"] = part.mark;
  out["continues"] = part.continues;
  out["more"] = part.more;
  return json_reply(out);
}

Reply LiveRuns::sample(const std::string& id, const std::string& name) const {
  for (const SampleFile& sample : read_run_files(folder_of(id)).samples) {
    if (sample.path.filename() != name || !is_inside(sample.path, root_)) continue;
    const SampleType type = sample_type(sample.path);
    const std::string charset = type.kind == "text" ? "; charset=utf-8" : "";
    return {std::string(type.type) + charset, read_file(sample.path, kSample), nullptr, {}};
  }
  refuse(404, "the run {} has no sample {}", quote(id), quote(name));
}

}  // namespace perceiver::serve
