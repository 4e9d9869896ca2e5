// The program's messages, through spdlog: to stderr and, if asked, to a file. Commands log with spdlog::warn,
// spdlog::info and so on; results go to stdout and are no messages.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace perceiver::program {

struct LogOptions {
  std::string level = "info";
  std::string file;    ///< empty: none
  bool quiet = false;  ///< stderr gets errors alone
};

/// Adds --log-level, --quiet and --log-file.
void add_log_options(CLI::App& command, LogOptions& options);

/// Makes stderr the place of all messages from `info` on. On stderr errors and warnings are lines that begin
/// with "perceiver: error: " and "perceiver: warning: "; other messages stand as they are.
void start_log();
/// Applies the options. Throws `user` for a file that cannot be opened.
void configure_log(const LogOptions& options);

/// How far a long task has come, at level info: rewritten in place on a terminal, a message elsewhere.
void log_progress(const std::string& text);
/// The same on a terminal alone, to be replaced by what follows: for news too frequent to log.
void show_status(const std::string& text);
/// "12 of 40 tokens" as status, erased at the end.
void show_token_count(int64_t done, int64_t total);
/// Leaves progress standing and erases a status. Call it before results follow.
void end_progress();

}  // namespace perceiver::program
