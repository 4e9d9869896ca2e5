// The program's messages, through spdlog: to stderr and optionally to a file. Commands call spdlog::warn,
// spdlog::info etc.; results go to stdout and are not messages.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "train/progress.h"

namespace perceiver::program {

struct LogOptions {
  std::string level = "info";
  std::string file;    ///< empty: none
  bool quiet = false;  ///< only errors on stderr
};

/// Adds --log-level, --quiet and --log-file.
void add_log_options(CLI::App& command, LogOptions& options);

/// Sends messages of level `info` and above to stderr. There, errors and warnings start with
/// "perceiver: error: " and "perceiver: warning: "; other messages have no prefix.
void start_log();
/// Applies the options. Throws `user` for a file that cannot be opened.
void configure_log(const LogOptions& options);

/// This process is one of several: unless it is rank 0, it shows only warnings and errors, each with the
/// number of the rank, and writes no log file. To be called before configure_log.
void name_rank(int rank);

/// Progress of a long task, at level info: rewritten in place on a terminal, a message elsewhere.
void log_progress(const std::string& text);
/// The same in fields, of which a terminal shows those that fit its width; a pipe and the log file get all.
void log_progress(const std::vector<LineField>& fields);
/// The same on a terminal only, replaced by anything that follows: for updates too frequent to log.
void show_status(const std::string& text);
/// "12 of 40 tokens" as status, erased at the end.
void show_token_count(int64_t done, int64_t total);
/// Keeps the last progress line and erases a status. Call this before printing results.
void end_progress();

}  // namespace perceiver::program
