// perceiver train: a run from a YAML file.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <iostream>

#include "base/check.h"
#include "config/load.h"
#include "eval/evaluator.h"
#include "tools/commands.h"
#include "train/progress.h"
#include "train/trainer.h"

namespace perceiver::program {
namespace {

struct TrainCommand {
  std::string config, run;
  std::vector<std::string> set;
  bool resume = false;
};

std::atomic<bool> stop_requested = false;

/// The first signal asks the run to save and end; the second ends the program the usual way.
void request_stop(int signal) {
  stop_requested = true;
  ::signal(signal, SIG_DFL);
}

/// Leaves a validation between two of its batches.
struct Stopped {};
void poll_stop(int64_t, int64_t) {
  if (stop_requested) throw Stopped();
}

ValidationScore score(const EvaluationResult& result) {
  return {result.nats_per_token(), result.units > 0 ? std::optional(result.bits_per_unit()) : std::nullopt,
          result.unit};
}

Validate validator(const Config& config) {
  EvaluationOptions options;
  options.stride = config.eval.stride;
  options.latents = config.eval.latents;
  options.batch = config.eval.batch > 0 ? config.eval.batch : config.train.batch;
  options.max_documents = config.eval.max_documents;
  return [options](const PerceiverAR& model, const Dataset& data) -> std::optional<ValidationScore> {
    try {
      return score(evaluate(model, data, Split::validation, options, poll_stop));
    } catch (const Stopped&) {
      return std::nullopt;
    }
  };
}

int run(const TrainCommand& options, const Globals& globals) {
  Config config = load_config(options.config, options.set);
  if (globals.threads > 0) config.threads = globals.threads;
  if (!globals.device.empty()) config.device = globals.device;
  const std::string folder =
      options.run.empty() ? "runs/" + std::filesystem::path(options.config).stem().string() : options.run;
  Progress progress(std::cerr, isatty(STDERR_FILENO) != 0);
  TrainOptions train;
  train.folder = folder;
  train.resume = options.resume;
  train.stop = &stop_requested;
  train.observer = &progress;
  train.validate = validator(config);
  Trainer trainer(config, train);
  ::signal(SIGINT, request_stop);
  ::signal(SIGTERM, request_stop);
  const TrainResult result = trainer.run();
  const char* how = result.status == TrainStatus::finished      ? "finished"
                    : result.status == TrainStatus::interrupted ? "stopped; go on with --resume"
                                                                : "train.max_minutes are over";
  progress.on_message(fmt::format("{} at step {}", how, result.step));
  std::printf("%s\n", result.checkpoint.string().c_str());
  return 0;
}

}  // namespace

void add_train(CLI::App& app, Globals& globals, Action& action) {
  auto options = std::make_shared<TrainCommand>();
  CLI::App* command =
      app.add_subcommand("train", "Train a model from a configuration; prints the last checkpoint");
  command->add_option("config", options->config, "Configuration (YAML; see perceiver config --explain)")
      ->required();
  command->add_option("--set", options->set, "Override a key: section.key=value")->take_all();
  command->add_option("--run", options->run, "Folder of the run (default: runs/<name of the configuration>)");
  command->add_flag("--resume", options->resume, "Continue the run that the folder holds");
  command->callback(
      [options, &globals, &action] { action = [options, &globals] { return run(*options, globals); }; });
}

}  // namespace perceiver::program
