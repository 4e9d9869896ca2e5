// perceiver: train, evaluate and sample Perceiver AR models.
#include <signal.h>
#include <spdlog/spdlog.h>

#include <exception>
#include <sstream>
#include <string>

#include "base/cpu_variant.h"
#include "base/text.h"
#include "perceiver/error.h"
#include "perceiver/version.h"
#include "tools/command_line.h"
#include "tools/commands.h"
#include "tools/log.h"
#include "tools/output.h"
#include "tools/ranks.h"
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
  perceiver serve runs/book
  perceiver config --explain train
  perceiver help sample
A checkpoint is a run folder (its best checkpoint, else its newest), a checkpoint folder or a model file;
or the name of a model (perceiver models).)";

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
  for (const auto add :
       {add_train, add_eval, add_sample, add_serve, add_info, add_models, add_report, add_runs, add_data,
        add_config, add_import, add_export, add_quantize, add_bench, add_help, add_completion})
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

/// Commands that the ranks of a run carry out together; the others are for rank 0 alone.
bool is_spread(const CLI::App& command) {
  const std::string name = full_name(command);
  for (const char* each : {"train", "eval", "sample", "data build", "bench train"})
    if (name == "perceiver " + std::string(each)) return true;
  return false;
}

int run(const CLI::App& app, Globals& globals, const Action& action, int argc, char** argv) {
  try {
    const Role role = role_of(globals, is_spread(innermost(app)));
    configure_log(globals.log);
    if (role == Role::nothing) return 0;
    if (role == Role::start) return start_ranks(globals, argc, argv);
    const int code = finish(action());
    leave_world();
    return code;
  } catch (const UsageError& error) {
    throw UsageError(error.what() + help_hint(innermost(app)));
  }
}

int parse_and_run(int argc, char** argv, Globals& globals) {
  CLI::App app(
      "Train, evaluate and sample Perceiver AR: long-context autoregressive models of text, images and "
      "sound.",
      "perceiver");
  Action action;
  app.set_version_flag("--version", [] {
    return std::string("perceiver ") + version() + "\nCPU kernels: " + name_of(cpu_variant());
  });
  app.add_option("--threads", globals.threads, "CPU threads (default: all)")->check(CLI::Range(1, 4096));
  app.add_option("--device", globals.device, "auto (a GPU if there is one), cpu or cuda")
      ->check(one_of({"auto", "cpu", "cuda"}));
  app.add_flag_callback(
      "--no-verify", [&globals] { globals.verify = false; },
      "Do not compare model files with their checksums");
  add_rank_options(app, globals);
  add_log_options(app, globals.log);
  app.require_subcommand(1);
  app.fallthrough();
  add_commands(app, globals, action);
  try {
    (void)find_command(app, std::vector<std::string>(argv + 1, argv + argc));
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return show_help(app, error);
    throw UsageError(explain(app, error) + help_hint(innermost(app)));
  }
  return run(app, globals, action, argc, argv);
}

/// One line for the whole run, however many ranks there are.
int fail(const Globals& globals, const Error& error) {
  end_world(globals, error);
  return report(error.what(), error.kind() == ErrorKind::user ? kUserError : kFailure);
}

}  // namespace

int main(int argc, char** argv) {
  fill_standard_streams();
  ::signal(SIGXFSZ, SIG_IGN);  // writing past `ulimit -f` is then an ordinary error
  start_log();
  Globals globals;
  try {
    return parse_and_run(argc, argv, globals);
  } catch (const ReaderGone&) {
    end_world_quietly(kReaderGone);
    return kReaderGone;
  } catch (const Error& error) {
    return fail(globals, error);
  } catch (const std::bad_alloc&) {
    return fail(globals, Error(ErrorKind::failure,
                               "out of memory; lower train.batch, model.context_length or model.latents"));
  } catch (const std::exception& error) {
    return fail(globals, Error(ErrorKind::failure, error.what()));
  }
}
