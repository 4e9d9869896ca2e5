// perceiver: train, evaluate and sample Perceiver AR models.
#include <signal.h>
#include <spdlog/spdlog.h>

#include <exception>
#include <string>

#include "base/edit_distance.h"
#include "perceiver/error.h"
#include "perceiver/version.h"
#include "tools/commands.h"
#include "tools/log.h"
#include "tools/standard_streams.h"

namespace {

using namespace perceiver;
using namespace perceiver::program;

constexpr int kUserError = 2, kFailure = 1;

constexpr const char* kExamples = R"(Examples:
  perceiver train configs/quickstart.yaml --set data.train=book.txt --run runs/book
  perceiver eval --checkpoint runs/book --split validation
  perceiver sample --checkpoint runs/book --prompt "Once upon a time" --tokens 500 --top-p 0.95
  perceiver config --explain train
A checkpoint is a run folder (its best checkpoint, else its newest), a checkpoint folder or a model file.)";

std::string one_line(std::string text) {
  for (char& c : text)
    if (c == '\n') c = ' ';
  return text;
}

int report(const std::string& message, int code) {
  spdlog::error("{}", one_line(message));
  return code;
}

/// The subcommand that an unknown word was probably meant to be, or "".
std::string nearest_command(const CLI::App& app, const std::string& word) {
  std::string best;
  size_t distance = 3;  // anything further is not a typo
  for (const CLI::App* command : app.get_subcommands({})) {
    const size_t d = edit_distance(word, command->get_name(), distance);
    if (d < distance) distance = d, best = command->get_name();
  }
  return best;
}

int parse_and_run(int argc, char** argv) {
  CLI::App app(
      "Train, evaluate and sample Perceiver AR: long-context autoregressive models of text, images and "
      "sound.",
      "perceiver");
  Globals globals;
  Action action;
  app.footer(kExamples);
  app.set_version_flag("--version", std::string("perceiver ") + version);
  app.add_option("--threads", globals.threads, "CPU threads (default: all)")->check(CLI::Range(1, 4096));
  app.add_option("--device", globals.device, "auto (a GPU if there is one), cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  add_log_options(app, globals.log);
  app.require_subcommand(1);
  app.fallthrough();
  for (const auto add :
       {add_train, add_eval, add_sample, add_info, add_data, add_config, add_import, add_bench})
    add(app, globals, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    const std::string guess = argc > 1 && argv[1][0] != '-' ? nearest_command(app, argv[1]) : "";
    const bool known = !guess.empty() && guess == argv[1];
    const std::string hint = guess.empty() || known ? "" : "; did you mean '" + guess + "'?";
    return report(std::string(error.what()) + hint + " (see perceiver --help)", kUserError);
  }
  configure_log(globals.log);
  return action();
}

}  // namespace

int main(int argc, char** argv) {
  fill_standard_streams();
  ::signal(SIGXFSZ, SIG_IGN);  // writing past `ulimit -f` is then an ordinary error
  start_log();
  try {
    return parse_and_run(argc, argv);
  } catch (const perceiver::Error& error) {
    return report(error.what(), error.kind() == perceiver::ErrorKind::user ? kUserError : kFailure);
  } catch (const std::bad_alloc&) {
    return report("out of memory; lower train.batch, model.context_length or model.latents", kFailure);
  } catch (const std::exception& error) {
    return report(error.what(), kFailure);
  }
}
