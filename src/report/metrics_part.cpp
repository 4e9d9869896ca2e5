#include "report/metrics_part.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <span>

#include "base/check.h"
#include "io/checksum.h"
#include "io/json_document.h"

namespace perceiver {
namespace {

using nlohmann::ordered_json;

constexpr uint64_t kSeen = 256;  ///< bytes before a mark that it knows the file by

std::string read_bytes(std::ifstream& file, uint64_t from, uint64_t count) {
  std::string bytes(count, '\0');
  file.clear();
  file.seekg(static_cast<std::streamoff>(from));
  file.read(bytes.data(), static_cast<std::streamsize>(count));
  bytes.resize(static_cast<size_t>(file.gcount()));
  return bytes;
}

/// "OFFSET-CHECKSUM", the checksum being of the bytes before it.
std::string mark_at(std::ifstream& file, uint64_t offset) {
  const uint64_t from = offset - std::min(offset, kSeen);
  const std::string seen = read_bytes(file, from, offset - from);
  return fmt::format("{}-{}", offset, hexadecimal(checksum_of(std::as_bytes(std::span(seen)))));
}

uint64_t offset_of(std::ifstream& file, const std::string& mark, uint64_t size) {
  uint64_t offset = 0;
  std::from_chars(mark.data(), mark.data() + mark.size(), offset);
  return offset <= size && mark_at(file, offset) == mark ? offset : 0;
}

/// Null for a line that is not an entry. What is nested too deep to be written again is dropped.
ordered_json parse_entry(std::string_view line) {
  const auto shallow = [](int depth, ordered_json::parse_event_t, const ordered_json&) {
    return depth <= json_max_depth;
  };
  const ordered_json entry = ordered_json::parse(line, shallow, false);
  const bool has_step = entry.is_object() && entry.contains("step") && entry["step"].is_number_integer();
  return has_step ? entry : ordered_json();
}

void add_line(std::string_view line, MetricsPart& part) {
  ordered_json entry = parse_entry(line);
  if (entry.is_null()) return;
  part.step = std::max(part.step, entry["step"].get<int64_t>());
  if (entry.contains("elapsed") && entry["elapsed"].is_number())
    part.elapsed = entry["elapsed"].get<double>();
  if (entry.contains("loss"))
    part.entries.push_back(std::move(entry));
  else if (entry.contains("validation_loss"))
    part.validations.push_back(std::move(entry));
}

void add_lines(std::string_view lines, MetricsPart& part) {
  while (!lines.empty()) {
    const size_t end = lines.find('\n');
    add_line(lines.substr(0, end), part);
    lines.remove_prefix(end + 1);
  }
}

}  // namespace

MetricsPart read_metrics(const std::filesystem::path& path, const std::string& mark, uint64_t most) {
  MetricsPart part;
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return part;
  std::ifstream file(path, std::ios::binary);
  if (!file) throw_user("{}: cannot be read", path.string());
  const uint64_t size = std::filesystem::file_size(path, error);
  if (error) throw_user("{}: cannot be read", path.string());
  const uint64_t offset = offset_of(file, mark, size);
  const std::string bytes = read_bytes(file, offset, std::min(size - offset, most));
  const size_t last = bytes.rfind('\n');
  const bool partial = last == std::string::npos;
  // A line longer than all that is wanted is passed over; one that is still being written is waited for.
  const size_t taken = !partial ? last + 1 : bytes.size() == most ? bytes.size() : 0;
  if (!partial) add_lines(std::string_view(bytes).substr(0, taken), part);
  part.mark = mark_at(file, offset + taken);
  part.continues = offset > 0;
  part.more = taken > 0 && offset + bytes.size() < size;
  return part;
}

}  // namespace perceiver
