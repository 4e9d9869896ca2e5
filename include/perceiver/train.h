// Trains a model, on data that the configuration names or on the caller's own.
//
//   perceiver::Config config = perceiver::load_config("configs/quickstart.yaml", {"data.train=book.txt"});
//   perceiver::TrainingRun run(config, {.folder = "runs/book"});
//   const perceiver::TrainResult result = run.run();
//   const auto model = perceiver::Model::load(result.checkpoint);   // or run.model()
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "perceiver/config.h"
#include "perceiver/dataset.h"
#include "perceiver/error.h"
#include "perceiver/export.h"
#include "perceiver/model.h"
#include "perceiver/train_report.h"

namespace perceiver {

struct TrainOptions {
  /// Of the run: configuration, metrics, checkpoints (docs/training.md); created. Empty: nothing is written,
  /// and TrainingRun::model is the only result.
  std::filesystem::path folder = {};
  bool resume = false;           ///< continue the run in the folder; from step 0 if it has no checkpoint yet
  bool accept_new_data = false;  ///< resume though the data changed
  TrainObserver* observer = nullptr;  ///< must outlive the run; null: nothing is reported
  /// The caller's data. Null: what config.data names. Otherwise config.data must name no files, and of its
  /// options only those that augment training data apply.
  std::shared_ptr<const DataSource> data = {};
  int device_index = 0;                   ///< which of the GPUs that this process can see
  std::vector<std::string> command = {};  ///< for the record that the folder keeps of how it was made
};

enum class TrainStatus {
  finished,       ///< train.steps are done, or the time of schedule.until is over
  interrupted,    ///< by TrainingRun::stop
  out_of_time,    ///< train.max_minutes
  stopped_early,  ///< train.early_stopping
};

struct TrainResult {
  TrainStatus status = TrainStatus::finished;
  int64_t step = 0;                  ///< steps done
  std::filesystem::path checkpoint;  ///< the newest one; empty if none was written
  RunSummary summary;
};

/// A training run. It depends only on its configuration and data: with the same number of threads, losses and
/// weights are identical bit for bit, even if the run was stopped or killed and resumed.
///
/// Threads: one thread opens and runs it; `stop` may be called from any other. Several runs, and models that
/// generate, may be at work in one process at a time, on one device or several. A run starts threads of its
/// own (config.threads, and one that reads data), and ends them with it; it changes nothing process-wide:
/// no signals, no environment variables, no working folder, no output.
///
/// One process trains on one device. Training on several is the program's work: `perceiver train --gpus N`.
class PERCEIVER_API TrainingRun {
 public:
  /// Opens the device, the data and the folder, and makes or loads the model: all that can fail for a mistake
  /// does so here. Throws `user` for a configuration that contradicts itself or does not fit the data, naming
  /// the key, for a folder that already holds a run (without `resume`) or no usable one (with it), and for
  /// data that cannot be used; `failure` if memory or the disk does not suffice.
  explicit TrainingRun(Config config, TrainOptions options = {});
  TrainingRun(TrainingRun&&) noexcept;
  TrainingRun& operator=(TrainingRun&&) noexcept;
  ~TrainingRun();

  /// Trains to train.steps or schedule.until, or until `stop`, train.max_minutes or train.early_stopping;
  /// validates by section eval, saves, and validates once more at the end unless stopped. To be called once.
  /// Throws `failure` after train.max_nonfinite_steps consecutive steps that were not finite, and if
  /// something cannot be written; the last good checkpoint stays.
  TrainResult run();

  /// Asks the run to save and end after the current step or within a validation. Returns at once. Any thread,
  /// also from the observer, and from a signal handler. Before `run`, the run ends without a step.
  void stop() noexcept;

  /// The configuration with its automatic values, e.g. the vocabulary of the data.
  const Config& config() const;

  /// A copy of the weights as they are now, or of their moving average with train.ema_decay, as a model of
  /// its own on the same device. Not while `run` is running. Without a folder, this is the run's result.
  Model model() const;

 private:
  friend struct TrainingAccess;  // the program's
  struct State;
  explicit TrainingRun(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace perceiver
