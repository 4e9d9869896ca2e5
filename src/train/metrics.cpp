#include "train/metrics.h"

#include <fcntl.h>

#include <cerrno>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/check.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

OutputFile open_for_appending(const fs::path& path) {
  FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  if (!file.valid()) throw_output_failure("open", path, errno);
  return {std::move(file), path};
}

/// The step of an entry; none for a line that is not one.
std::optional<int64_t> step_of(const std::string& line) {
  const ordered_json entry = ordered_json::parse(line, nullptr, false);
  if (!entry.is_object()) return std::nullopt;
  const auto step = entry.find("step");
  if (step == entry.end() || !step->is_number_integer()) return std::nullopt;
  return step->get<int64_t>();
}

}  // namespace

std::string metrics_line(const LogEntry& entry) {
  return ordered_json{{"step", entry.step},
                      {"loss", entry.loss},
                      {"bits", entry.bits()},
                      {"objective", entry.objective},
                      {"z_loss", entry.z_loss},
                      {"accuracy", entry.accuracy},
                      {"gradient_norm", entry.gradient_norm},
                      {"learning_rate", entry.learning_rate},
                      {"targets_per_second", entry.targets_per_second},
                      {"inputs_per_second", entry.inputs_per_second},
                      {"elapsed", entry.elapsed},
                      {"skipped", entry.skipped}}
      .dump();
}

std::string metrics_line(const EvalEntry& entry) {
  ordered_json line{{"step", entry.step},
                    {"validation_loss", entry.loss},
                    {"validation_bits", entry.bits()},
                    {"validation_seconds", entry.seconds}};
  if (entry.bits_per_unit) line[fmt::format("validation_bits_per_{}", entry.unit)] = *entry.bits_per_unit;
  return line.dump();
}

void drop_metrics_after(const fs::path& path, int64_t last_step) {
  std::ifstream input(path, std::ios::binary);
  if (!input) return;
  AtomicFile output(path);
  std::string line, kept;
  while (std::getline(input, line)) {
    const std::optional<int64_t> step = step_of(line);
    if (step && *step <= last_step) kept.append(line).push_back('\n');
  }
  output.write(kept);
  output.commit();
}

MetricsFile::MetricsFile(const fs::path& path) : output_(open_for_appending(path)) {}

}  // namespace perceiver
