#include "report/run_record.h"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>

#include "base/check.h"
#include "io/atomic_file.h"
#include "io/file_content.h"
#include "io/file_descriptor.h"
#include "report/metrics_part.h"
#include "train/checkpoint_store.h"
#include "train/environment.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr uint64_t kMostBytes = uint64_t{256} << 20;  // of a text file of a run
constexpr int kMostLevels = 3;

bool is_run(const fs::path& folder) {
  return is_file(folder / "config.yaml") || is_file(folder / "metrics.jsonl");
}

void add_metrics(RunRecord& run) {
  const fs::path path = run.folder / "metrics.jsonl";
  MetricsPart part = read_metrics(path, "", kMostBytes);
  if (part.more) throw_user("{}: longer than {} MiB", path.string(), kMostBytes >> 20);
  run.step = part.step;
  run.elapsed = part.elapsed;
  run.entries = std::move(part.entries);
  run.validations = std::move(part.validations);
}

void read_config_of(RunRecord& run) {
  const fs::path path = run.folder / "config.yaml";
  if (!is_file(path)) {
    run.config_error = "it has no config.yaml";
    return;
  }
  run.config_text = read_file(path, kMostBytes);
  try {
    run.config = parse_config(run.config_text, path.string());
  } catch (const Error& error) {
    run.config_error = error.what();
  }
}

/// The step in "step-000000100.txt"; none for other names.
std::optional<int64_t> sample_step(const std::string& stem) {
  constexpr std::string_view prefix = "step-";
  if (!stem.starts_with(prefix)) return std::nullopt;
  int64_t step = 0;
  const char *begin = stem.data() + prefix.size(), *end = stem.data() + stem.size();
  const auto [stop, error] = std::from_chars(begin, end, step);
  return error == std::errc() && stop == end ? std::optional(step) : std::nullopt;
}

void find_samples(RunRecord& run) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(run.folder / "samples", ignored)) {
    const std::optional<int64_t> step = sample_step(entry.path().stem().string());
    if (step && entry.is_regular_file(ignored)) run.samples.push_back({*step, entry.path()});
  }
  std::sort(run.samples.begin(), run.samples.end(), [](const SampleFile& a, const SampleFile& b) {
    return std::pair(a.step, a.path) < std::pair(b.step, b.path);
  });
}

/// Whether some process holds the lock of the folder. Looking shares it with others who look.
bool is_locked(const fs::path& folder) {
  const FileDescriptor descriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return descriptor.valid() && ::flock(descriptor.get(), LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

void add_runs(const fs::path& folder, int levels, std::vector<fs::path>& runs) {
  if (is_run(folder)) {
    runs.push_back(folder);
    return;
  }
  if (levels == 0) return;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored))
    if (entry.is_directory(ignored)) add_runs(entry.path(), levels - 1, runs);
}

/// The last entry may have been written just before the time of schedule.until was over.
constexpr double kTimeIsOver = 0.999;

bool is_over(const Config& config, const RunRecord& run) {
  const double until = config.schedule.until;
  return until > 0 ? run.elapsed >= kTimeIsOver * until : run.step >= config.train.steps;
}

}  // namespace

const char* name_of(RunState state) {
  return state == RunState::running ? "running" : state == RunState::finished ? "finished" : "stopped";
}

RunState state_of(const RunRecord& run) {
  if (is_locked(run.folder)) return RunState::running;
  return run.config && is_over(*run.config, run) ? RunState::finished : RunState::stopped;
}

bool is_better(const ordered_json& validation, const ordered_json* best) {
  const ordered_json& loss = validation["validation_loss"];
  return loss.is_number() &&
         (best == nullptr || loss.get<double>() < (*best)["validation_loss"].get<double>());
}

const ordered_json* RunRecord::best_validation() const {
  const ordered_json* best = nullptr;
  for (const ordered_json& each : validations)
    if (is_better(each, best)) best = &each;
  return best;
}

RunRecord read_run_files(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) throw_user("{}: no such run folder", folder.string());
  if (!is_run(folder))
    throw_user(
        "{}: holds neither config.yaml nor metrics.jsonl, so it is no run folder; `perceiver runs` lists "
        "them",
        folder.string());
  RunRecord run;
  run.folder = folder;
  const fs::path whole = fs::weakly_canonical(folder, ignored);
  run.name = (whole.empty() ? folder : whole).filename().string();
  read_config_of(run);
  try {
    run.environments = read_environment(folder);
  } catch (const Error&) {
  }  // of a run that is just starting, or damaged: the rest is worth showing
  const CheckpointStore checkpoints(folder / "checkpoints");
  run.checkpoints = checkpoints.steps();
  run.best_checkpoint = checkpoints.best();
  find_samples(run);
  return run;
}

RunRecord read_run(const fs::path& folder) {
  RunRecord run = read_run_files(folder);
  add_metrics(run);
  run.state = state_of(run);
  return run;
}

std::vector<fs::path> find_runs(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) throw_user("{}: no such folder", folder.string());
  std::vector<fs::path> runs;
  add_runs(folder, kMostLevels, runs);
  std::sort(runs.begin(), runs.end());
  return runs;
}

}  // namespace perceiver
