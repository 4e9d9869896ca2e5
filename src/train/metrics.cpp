#include "train/metrics.h"

#include <fcntl.h>

#include <cerrno>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/check.h"
#include "io/json_document.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

OutputFile open_for_appending(const fs::path& path) {
  FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  if (!file.valid()) throw_output_failure("open", path, errno);
  return {std::move(file), path};
}

nlohmann::json parse_line(const std::string& line) {
  try {
    return parse_json_document(line, "a line of the metrics");
  } catch (const Error&) {
    return nullptr;
  }
}

/// The step of an entry; none for a partial entry or a line that is not an entry.
std::optional<int64_t> logged_step(const std::string& line) {
  const nlohmann::json entry = parse_line(line);
  if (!entry.is_object() || entry.contains("partial")) return std::nullopt;
  const auto step = entry.find("step");
  if (step == entry.end() || !step->is_number_integer()) return std::nullopt;
  return step->get<int64_t>();
}

}  // namespace

std::string metrics_line(const LogEntry& entry) {
  ordered_json line{{"step", entry.step},
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
                    {"skipped", entry.skipped},
                    {"clipped", entry.clipped}};
  if (entry.memory_bytes > 0) line["memory_bytes"] = entry.memory_bytes;
  if (entry.partial) line["partial"] = true;
  return line.dump();
}

std::string metrics_line(const EvalEntry& entry) {
  ordered_json line{{"step", entry.step},
                    {"validation_loss", entry.loss},
                    {"validation_bits", entry.bits()},
                    {"validation_seconds", entry.seconds},
                    {"elapsed", entry.elapsed}};
  if (entry.bits_per_unit) line[fmt::format("validation_bits_per_{}", entry.unit)] = *entry.bits_per_unit;
  for (const PositionLoss& each : entry.by_position)
    line["by_position"].push_back({each.first, each.tokens, each.loss});
  return line.dump();
}

void drop_metrics_after(const fs::path& path, int64_t last_step) {
  std::error_code error;
  if (!fs::exists(path, error) && !error) return;
  std::ifstream input(path, std::ios::binary);
  if (!input) throw_output_failure("read", path, errno);
  AtomicFile output(path);
  std::string line, kept;
  while (std::getline(input, line)) {
    const std::optional<int64_t> step = logged_step(line);
    if (step && *step <= last_step) kept.append(line).push_back('\n');
  }
  // Writing the rest would lose what could not be read.
  if (input.bad()) throw_output_failure("read", path, EIO);
  output.write(kept);
  output.commit();
}

MetricsFile::MetricsFile(const fs::path& path) : output_(open_for_appending(path)) {}

}  // namespace perceiver
