// perceiver: train, evaluate and sample Perceiver AR models.
#include <signal.h>
#include <spdlog/spdlog.h>

#include <exception>
#include <sstream>
#include <string>

#include "base/text.h"
#include "perceiver/error.h"
#include "perceiver/version.h"
#include "tools/command_line.h"
#include "tools/commands.h"
#include "tools/log.h"
#include "tools/output.h"
#include "tools/standard_streams.h"
#include "tools/validators.h"

namespace {

using namespace perceiver;
using namespace perceiver::program;

constexpr int kUserError = 2, kFailure = 1;
constexpr int kReaderGone = 128 + SIGPIPE;  // as the shell reports a program that the signal ended

constexpr const char* kExamples = R"(Examples:
  perceiver train configs/quickstart.yaml --set data.train=book.txt --run runs/book
  perceiver eval runs/book --split validation
  perceiver sample runs/book --prompt "Once upon a time" --tokens 500 --top-p 0.95
  perceiver config --explain train
  perceiver help sample
A checkpoint is a run folder (its best checkpoint, else its newest), a checkpoint folder or a model file.)";

/// One line, whatever the message quotes: a file name must not drive the terminal.
int report(const std::string& message, int code) {
  spdlog::error("{}", printable(message));
  return code;
}

/// Results that were printed but cannot be written are an error.
int finish(int code) {
  flush_output();
  return code;
}

void add_commands(CLI::App& app, Globals& globals, Action& action) {
  app.footer("");  // commands inherit it
  for (const auto add : {add_train, add_eval, add_sample, add_info, add_data, add_config, add_import,
                         add_bench, add_help, add_completion})
    add(app, globals, action);
  app.footer(kExamples);
  check_numbers(app);
}

/// What --help or --version ask for.
int show_help(const CLI::App& app, const CLI::ParseError& error) {
  std::ostringstream text;
  app.exit(error, text, text);
  print_now(text.str());
  return 0;
}

int run(const CLI::App& app, const Action& action) {
  try {
    return finish(action());
  } catch (const UsageError& error) {
    return report(error.what() + help_hint(innermost(app)), kUserError);
  }
}

int parse_and_run(int argc, char** argv) {
  CLI::App app(
      "Train, evaluate and sample Perceiver AR: long-context autoregressive models of text, images and "
      "sound.",
      "perceiver");
  Globals globals;
  Action action;
  app.set_version_flag("--version", std::string("perceiver ") + version);
  app.add_option("--threads", globals.threads, "CPU threads (default: all)")->check(CLI::Range(1, 4096));
  app.add_option("--device", globals.device, "auto (a GPU if there is one), cpu or cuda")
      ->check(one_of({"auto", "cpu", "cuda"}));
  app.add_flag_callback(
      "--no-verify", [&globals] { globals.verify = false; },
      "Do not compare model files with their checksums");
  add_log_options(app, globals.log);
  app.require_subcommand(1);
  app.fallthrough();
  add_commands(app, globals, action);
  try {
    (void)find_command(app, std::vector<std::string>(argv + 1, argv + argc));
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return show_help(app, error);
    return report(explain(app, error) + help_hint(innermost(app)), kUserError);
  }
  configure_log(globals.log);
  return run(app, action);
}

}  // namespace

int main(int argc, char** argv) {
  fill_standard_streams();
  ::signal(SIGXFSZ, SIG_IGN);  // writing past `ulimit -f` is then an ordinary error
  start_log();
  try {
    return parse_and_run(argc, argv);
  } catch (const ReaderGone&) {
    return kReaderGone;
  } catch (const perceiver::Error& error) {
    return report(error.what(), error.kind() == perceiver::ErrorKind::user ? kUserError : kFailure);
  } catch (const std::bad_alloc&) {
    return report("out of memory; lower train.batch, model.context_length or model.latents", kFailure);
  } catch (const std::exception& error) {
    return report(error.what(), kFailure);
  }
}
