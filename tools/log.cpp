#include "tools/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <string_view>

#include "base/check.h"
#include "base/edit_distance.h"
#include "base/text.h"
#include "tools/console.h"
#include "tools/printable_lines.h"

namespace perceiver::program {
namespace {

constexpr std::array<std::string_view, 6> kLevels{"trace", "debug", "info", "warning", "error", "off"};
constexpr const char* kFilePattern = "%Y-%m-%dT%H:%M:%S.%e%z %l %v";  // ISO 8601 with the offset from UTC

/// Columns of the terminal at stderr; 0 if unknown.
size_t terminal_columns() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  size_t columns = 0;
  if (const char* text = std::getenv("COLUMNS")) std::from_chars(text, text + std::strlen(text), columns);
  return columns;
}

Console& console() {
  static Console console(std::cerr, isatty(STDERR_FILENO) != 0, terminal_columns);
  return console;
}

/// Of this process among several.
std::atomic<int>& own_rank() {
  static std::atomic<int> rank = 0;
  return rank;
}

/// The progress line that is being logged, in fields; empty: whole. Progress is logged by one thread.
std::vector<LineField>& progress_parts() {
  static std::vector<LineField> fields;
  return fields;
}

/// Messages on stderr, or progress that is rewritten in place where that is a terminal.
class ConsoleSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit ConsoleSink(bool progress) : progress_(progress) {}

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const std::string_view text(message.payload.data(), message.payload.size());
    if (progress_ && !progress_parts().empty()) return console().progress(progress_parts());
    if (progress_) return console().progress(text);
    console().line(prefix(message.level) + printable_lines(text));
  }
  void flush_() override {}

 private:
  static std::string prefix(spdlog::level::level_enum level) {
    if (level < spdlog::level::warn) return "";
    const std::string rank = own_rank() == 0 ? "" : fmt::format("rank {}: ", own_rank().load());
    return (level >= spdlog::level::err ? "perceiver: error: " : "perceiver: warning: ") + rank;
  }
  const bool progress_;
};

std::shared_ptr<spdlog::logger> new_logger(bool progress) {
  auto logger = std::make_shared<spdlog::logger>("perceiver", std::make_shared<ConsoleSink>(progress));
  // Of spdlog's own failures, e.g. a full disk, report only the first.
  logger->set_error_handler([reported = false](const std::string& error) mutable {
    if (!reported) console().line("perceiver: warning: the log: " + error);
    reported = true;
  });
  logger->flush_on(spdlog::level::trace);
  return logger;
}

std::shared_ptr<spdlog::logger>& progress_logger() {
  static std::shared_ptr<spdlog::logger> logger = new_logger(true);
  return logger;
}

spdlog::sink_ptr open_file_sink(const std::string& file) {
  // spdlog would create folders and throw an error of its own.
  if (!std::ofstream(file, std::ios::app))
    throw_user("--log-file: cannot open '{}' for writing: {}", file, std::strerror(errno));
  auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(file);
  sink->set_pattern(kFilePattern);
  return sink;
}

/// An error message for a word that is no level, else "".
std::string check_level(const std::string& word) {
  if (std::find(kLevels.begin(), kLevels.end(), word) != kLevels.end()) return "";
  const std::vector<std::string_view> levels(kLevels.begin(), kLevels.end());
  return fmt::format("level '{}' is unknown; did you mean '{}'? The levels: {}", word,
                     levels[nearest_word(word, levels)], fmt::join(levels, ", "));
}

}  // namespace

void add_log_options(CLI::App& command, LogOptions& options) {
  command
      .add_option("--log-level", options.level,
                  "Show messages of at least this level: trace, debug, info, warning, error or off")
      ->check(check_level)
      ->type_name("LEVEL")
      ->capture_default_str();
  command.add_flag("--quiet", options.quiet, "Print only errors and results, no progress or other messages");
  command.add_option("--log-file", options.file, "Append messages to this file, each with time and level")
      ->type_name("FILE");
}

void start_log() {
  (void)console();  // before the loggers, to outlive them
  spdlog::set_default_logger(new_logger(false));
}

void configure_log(const LogOptions& options) {
  const bool speaks = own_rank() == 0;
  const spdlog::sink_ptr file = options.file.empty() || !speaks ? nullptr : open_file_sink(options.file);
  for (const auto& logger : {spdlog::default_logger(), progress_logger()}) {
    logger->set_level(spdlog::level::from_str(options.level));
    if (options.quiet) logger->sinks().front()->set_level(spdlog::level::err);
    if (!speaks) logger->sinks().front()->set_level(options.quiet ? spdlog::level::err : spdlog::level::warn);
    if (file) logger->sinks().push_back(file);
  }
}

void name_rank(int rank) {
  own_rank() = rank;
}

void log_progress(const std::vector<LineField>& fields) {
  std::string line;
  for (const LineField& field : fields) line += field.text;
  progress_parts() = fields;
  progress_logger()->info(line);
  progress_parts().clear();
}

void log_progress(const std::string& text) {
  progress_logger()->info(text);
}

void show_status(const std::string& text) {
  const spdlog::logger& logger = *progress_logger();
  if (logger.should_log(spdlog::level::info) && logger.sinks().front()->should_log(spdlog::level::info))
    console().status(text);
}

void show_token_count(int64_t done, int64_t total) {
  if (done == total) return end_progress();
  show_status(fmt::format("{} of {} tokens", done, total));
}

void end_progress() {
  console().settle();
}

}  // namespace perceiver::program
