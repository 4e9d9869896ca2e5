#include "train/environment.h"

#include <fmt/chrono.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/build_info.h"
#include "base/check.h"
#include "base/cpu_variant.h"
#include "io/atomic_file.h"
#include "io/checksum.h"
#include "io/json_document.h"
#include "model/precision.h"
#include "perceiver/version.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr uint64_t kMaxBytes = 64 << 20;

/// What follows `key` and its separators in the first line that starts with it; "" if there is none.
std::string value_in(const char* file, const std::string& key) {
  std::ifstream input(file);
  for (std::string line; std::getline(input, line);) {
    if (!line.starts_with(key)) continue;
    const size_t begin = line.find_first_not_of(" \t:=\"", key.size());
    const size_t end = line.find_last_not_of("\" \t");
    return begin == std::string::npos ? "" : line.substr(begin, end + 1 - begin);
  }
  return "";
}

std::string or_unknown(const std::string& text) {
  return text.empty() ? "unknown" : text;
}

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

std::string kernel() {
  utsname name{};
  if (::uname(&name) != 0) return "unknown";
  return fmt::format("{} {} {}", name.sysname, name.release, name.machine);
}

std::string working_folder() {
  std::error_code error;
  const fs::path path = fs::current_path(error);
  return error ? "unknown" : path.string();
}

ordered_json data_stamp(const DataRecord& data) {
  ordered_json stamp{{"fingerprint", hexadecimal(data.fingerprint)}};
  for (const Split split : {Split::train, Split::validation, Split::test})
    stamp[std::string(split_name(split))] = {{"documents", data.of(split).documents},
                                             {"tokens", data.of(split).tokens}};
  return stamp;
}

std::string line_of(const ordered_json& value) {
  return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

void write_list(const fs::path& path, const std::vector<FileRemark>& files, const char* remark) {
  std::string lines;
  for (const FileRemark& file : files)
    lines += line_of(ordered_json{{"path", file.path}, {remark, file.remark}});
  if (!lines.empty()) return write_file_atomically(path, lines);
  std::error_code error;
  fs::remove(path, error);
  if (error) throw_output_failure("remove", path, error.value());
}

}  // namespace

ordered_json environment_stamp(const RunContext& run, const PerceiverAR& model) {
  const DeviceContext& device = model.context();
  ordered_json stamp{{"started", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)))},
                     {"step", run.step},
                     {"version", version()},
                     {"commit", build_commit()},
                     {"compiler", build_compiler()},
                     {"host", host_name()},
                     {"system", or_unknown(value_in("/etc/os-release", "PRETTY_NAME"))},
                     {"kernel", kernel()},
                     {"processor", or_unknown(value_in("/proc/cpuinfo", "model name"))},
                     {"device", device.name()}};
  if (device.is_cuda()) {
    stamp["driver"] = or_unknown(value_in("/proc/driver/nvidia/version", "NVRM version"));
  } else {
    stamp["cpu_kernels"] = name_of(cpu_variant());
  }
  stamp["threads"] = device.threads();
  stamp["ranks"] = run.ranks;
  if (!run.communicator.empty()) stamp["communicator"] = run.communicator;
  stamp["precision"] = precision_name(run.precision, model.type());
  stamp["command"] = run.command;
  stamp["folder"] = working_folder();
  stamp["seed"] = run.seed;
  stamp["data"] = data_stamp(run.data);
  return stamp;
}

void append_environment(const RunFolder& folder, const RunContext& run, const PerceiverAR& model) {
  const fs::path path = folder.environment();
  std::error_code ignored;
  std::string lines = fs::exists(path, ignored) ? read_file(path, kMaxBytes) : "";
  if (!lines.empty() && lines.back() != '\n') lines += '\n';
  write_file_atomically(path, lines + line_of(environment_stamp(run, model)));
}

std::vector<ordered_json> read_environment(const fs::path& run_folder) {
  const fs::path path = run_folder / "environment.jsonl";
  std::vector<ordered_json> stamps;
  std::error_code error;
  if (!fs::exists(path, error)) return stamps;
  std::istringstream lines(read_file(path, kMaxBytes));
  for (std::string line; std::getline(lines, line);) {
    parse_json_document(line, path.string());  // checks its nesting
    stamps.push_back(ordered_json::parse(line));
  }
  return stamps;
}

void write_file_remarks(const RunFolder& folder, const Dataset& data) {
  write_list(folder.skipped_files(), data.skipped(), "reason");
  write_list(folder.repaired_files(), data.repaired(), "repair");
}

}  // namespace perceiver
