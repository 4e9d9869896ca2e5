// perceiver train: a run from a YAML file.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <filesystem>

#include "config/load.h"
#include "core/check.h"
#include "eval/evaluator.h"
#include "tools/commands.h"
#include "train/trainer.h"

namespace perceiver::program {
namespace {

struct Options {
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

std::string duration(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  if (s >= 3600) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
  return s >= 60 ? fmt::format("{}m{:02}s", s / 60, s % 60) : fmt::format("{}s", s);
}

/// One line on stderr that is rewritten on a terminal; plain lines elsewhere.
class Progress final : public TrainObserver {
 public:
  void on_log(const LogEntry& e) override {
    const std::string skipped = e.skipped > 0 ? fmt::format("  skipped {}", e.skipped) : "";
    show(fmt::format("step {}/{}  loss {:.4f} nats {:.4f} bits  accuracy {:.3f}  lr {:.2e}  {:.0f} tokens/s  "
                     "{} left{}",
                     e.step, e.steps, e.loss, e.bits(), e.accuracy, e.learning_rate, e.targets_per_second,
                     duration(e.remaining), skipped),
         terminal_);
  }
  void on_eval(const EvalEntry& e) override {
    const std::string unit =
        e.bits_per_unit ? fmt::format("  {:.4f} bits per {}", *e.bits_per_unit, e.unit) : "";
    show(fmt::format("step {}  validation {:.4f} nats {:.4f} bits{}{}  ({})", e.step, e.loss, e.bits(), unit,
                     e.is_best ? "  best" : "", duration(e.seconds)),
         false);
  }
  void on_message(const std::string& text) override { show(text, false); }

 private:
  void show(const std::string& line, bool stays_open) {
    std::fprintf(stderr, "%s%s%s", open_ ? "\r\033[K" : "", line.c_str(), stays_open ? "" : "\n");
    std::fflush(stderr);
    open_ = stays_open;
  }

  bool terminal_ = isatty(STDERR_FILENO) != 0;
  bool open_ = false;
};

Validate validator(const Config& config) {
  EvaluationOptions options;
  options.stride = config.eval.stride;
  options.latents = config.eval.latents;
  options.batch = config.eval.batch > 0 ? config.eval.batch : config.train.batch;
  options.max_documents = config.eval.max_documents;
  return [options](const PerceiverAR& model, const Dataset& data) {
    const EvaluationResult result = evaluate(model, data, Split::validation, options);
    return ValidationScore{result.nats_per_token(),
                           result.units > 0 ? std::optional(result.bits_per_unit()) : std::nullopt,
                           result.unit};
  };
}

int run(const Options& options, int threads) {
  Config config = load_config(options.config, options.set);
  check_device(config.device);
  if (threads > 0) config.threads = threads;
  const std::string folder =
      options.run.empty() ? "runs/" + std::filesystem::path(options.config).stem().string() : options.run;
  Progress progress;
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
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("train", "Train a model from a configuration; prints the last checkpoint");
  command->add_option("config", options->config, "Configuration (YAML; see perceiver config --explain)")
      ->required();
  command->add_option("--set", options->set, "Override a key: section.key=value")->take_all();
  command->add_option("--run", options->run, "Folder of the run (default: runs/<name of the configuration>)");
  command->add_flag("--resume", options->resume, "Continue the run that the folder holds");
  command->callback([options, &globals, &action] {
    action = [options, &globals] { return run(*options, globals.threads); };
  });
}

}  // namespace perceiver::program
