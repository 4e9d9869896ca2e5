// perceiver train: trains a model from a configuration.
#include <signal.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "api/training_run.h"
#include "base/text.h"
#include "perceiver/train.h"
#include "tools/commands.h"
#include "tools/describe.h"
#include "tools/next_steps.h"
#include "tools/printable_lines.h"
#include "tools/ranks.h"
#include "train/dry_run.h"
#include "train/progress.h"

namespace perceiver::program {
namespace {

struct TrainCommand {
  std::string config, run;
  std::vector<std::string> set;
  bool resume = false, accept_new_data = false, dry_run = false;
};

std::atomic<bool> stop_requested = false;

/// The first signal asks the run to save and end; the second ends the program as usual.
void request_stop(int signal) {
  stop_requested = true;
  ::signal(signal, SIG_DFL);
}

/// Ctrl-C, a polite kill and the end of the terminal stop the run; under nohup the last is ignored, and stays
/// so.
void stop_on_signals() {
  ::signal(SIGINT, request_stop);
  ::signal(SIGTERM, request_stop);
  if (::signal(SIGHUP, request_stop) == SIG_IGN) ::signal(SIGHUP, SIG_IGN);
}

void log_lines(const std::vector<std::string>& lines) {
  for (const std::string& line : lines) spdlog::info("{}", line);
}

/// Logs what a run reports, and remembers what the next commands depend on.
class LoggingObserver final : public TrainObserver {
 public:
  void on_start(const RunHeader& header) override {
    modality = header.modality;
    validates = header.generated || header.data.of(Split::validation).documents > 0;
    log_lines(header_lines(header));
  }
  void on_log(const LogEntry& entry) override { log_progress(progress_fields(entry)); }
  void on_eval(const EvalEntry& entry) override { spdlog::info("{}", progress_line(entry)); }
  void on_sample(const SampleEntry& entry) override {
    const std::string text = entry.text.empty() ? "" : ":\n" + printable_lines(entry.text);
    spdlog::info("step {}  sample {}{}", entry.step, entry.path.string(), text);
  }
  void on_checkpoint(int64_t step, const std::filesystem::path& path) override {
    spdlog::info("step {}  saved {}", step, path.string());
  }
  void on_message(Severity severity, const std::string& text) override {
    spdlog::log(severity == Severity::warning ? spdlog::level::warn : spdlog::level::info, "{}", text);
  }

  std::string modality;
  bool validates = false;
};

const char* words_for(TrainStatus status) {
  switch (status) {
    case TrainStatus::finished:
      return "finished";
    case TrainStatus::interrupted:
      return "stopped; continue with --resume";
    case TrainStatus::stopped_early:
      return "stopped by train.early_stopping";
    case TrainStatus::out_of_time:
      break;
  }
  return "stopped by train.max_minutes";
}

int try_out(const Config& config, const std::string& folder, World* world) {
  const DryRun measured = dry_run(
      config, folder, [](const RunHeader& header) { log_lines(header_lines(header)); }, world);
  log_lines({"time    " + duration_line(measured, config), "used    " + memory_line(measured)});
  return 0;
}

/// The end of a run: how it went, and the commands that go on from there.
void sum_up(const TrainResult& result, const LoggingObserver& run, const std::vector<std::string>& command) {
  spdlog::info("{} at step {}", words_for(result.status), result.step);
  log_lines(summary_lines(result.summary));
  std::vector<std::string> next =
      commands_for_model(command[0], result.summary.folder.string(), run.modality, run.validates);
  const bool goes_on = result.status == TrainStatus::interrupted || result.status == TrainStatus::out_of_time;
  if (goes_on) next.insert(next.begin(), resume_command(command));
  if (!next.empty()) spdlog::info("next:");
  for (const std::string& line : next) spdlog::info("  {}", line);
}

int run(const TrainCommand& options, const Globals& globals) {
  // A reader of the messages that goes away, as in `2>&1 | head`, is no reason to stop.
  ::signal(SIGPIPE, SIG_IGN);
  const std::shared_ptr<World> world = open_world(globals, &stop_requested);
  Config config = load_config(options.config, options.set);
  if (globals.threads > 0) config.threads = globals.threads;
  if (config.threads == 0) config.threads = threads_of(globals);
  if (!globals.device.empty()) config.device = globals.device;
  const std::string folder =
      options.run.empty() ? "runs/" + std::filesystem::path(options.config).stem().string() : options.run;
  if (options.dry_run) return try_out(config, folder, world.get());
  LoggingObserver observer;
  const TrainOptions train{.folder = folder,
                           .resume = options.resume,
                           .accept_new_data = options.accept_new_data,
                           .observer = &observer,
                           .command = own_command_line()};
  TrainingRun training = TrainingAccess::open(config, train, world.get(), stop_requested);
  name_run(folder);
  stop_on_signals();
  const TrainResult result = training.run();
  if (world && !world->leads()) return 0;
  sum_up(result, observer, train.command);
  end_progress();
  std::printf("%s\n", result.checkpoint.string().c_str());
  return 0;
}

}  // namespace

void add_train(CLI::App& app, Globals& globals, Action& action) {
  auto options = std::make_shared<TrainCommand>();
  CLI::App* command =
      app.add_subcommand("train", "Train a model from a configuration and print its last checkpoint");
  command->add_option("config", options->config, "Configuration (YAML; see perceiver config --explain)")
      ->required();
  command->add_option("--set", options->set, "Override a key: section.key=value")
      ->take_all()
      ->type_name(kKeyValue);
  command->add_option("--run", options->run, "Run folder (default: runs/<name of the configuration>)");
  CLI::Option* resume = command->add_flag("--resume", options->resume, "Continue the run in the folder");
  command
      ->add_flag("--accept-new-data", options->accept_new_data,
                 "Continue although the data has changed since the run stopped")
      ->needs(resume);
  command
      ->add_flag("--dry-run", options->dry_run,
                 "Say what the run would train and need, measure a few seconds of it, and write nothing")
      ->excludes(resume);
  command->callback(
      [options, &globals, &action] { action = [options, &globals] { return run(*options, globals); }; });
  command->footer(R"(Examples:
  perceiver train configs/quickstart.yaml --set data.train=book.txt --run runs/book
  perceiver train configs/quickstart.yaml --set data.train=book.txt --run runs/book --resume
  perceiver train configs/quickstart.yaml --set data.train=book.txt --set train.steps=5000
  perceiver train configs/quickstart.yaml --set data.train=book.txt --set train.max_minutes=0 --set schedule.until=20m
  perceiver train configs/quickstart.yaml --set data.train=book.txt --gpus all)");
}

}  // namespace perceiver::program
