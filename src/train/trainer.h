// A training run from a configuration: data, model, steps, validation, checkpoints, resuming.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/batches/loader.h"
#include "data/dataset.h"
#include "distributed/world.h"
#include "model/model_file.h"
#include "model/perceiver_ar.h"
#include "perceiver/config.h"
#include "perceiver/train.h"
#include "train/checkpoint.h"
#include "train/learner.h"
#include "train/run_folder.h"
#include "train/run_log.h"
#include "train/run_report.h"
#include "train/save_timer.h"
#include "train/step_clock.h"
#include "train/training_samples.h"
#include "train/validation.h"

namespace perceiver {

/// What the caller of the library chooses, and what only the program does.
struct TrainerOptions : TrainOptions {
  const std::atomic<bool>* stop = nullptr;  ///< once true, the run saves and ends after the current step
  Validate validate;                        ///< none: no validation; should give up once `stop` is true
  /// Seconds since the trainer was made, by the clock that ends runs; none: the machine's.
  std::function<double()> clock;
  World* world = nullptr;  ///< the ranks of the run; null: this process alone. Must outlive the trainer.
};

/// A run depends only on its configuration and data: with the same number of threads and ranks, losses and
/// weights are identical bit for bit, even if the run was stopped or killed and resumed; with another number
/// of ranks, within rounding. Every rank makes the same Trainer and calls run(); rank 0 alone writes to the
/// run's folder and reports to the observer.
class Trainer {
 public:
  /// Opens or creates everything. Throws `user` for a folder that already holds a run (without `resume`) or
  /// no usable one (with it), and for a configuration that does not fit the data or the run to resume.
  Trainer(Config config, TrainerOptions options);

  /// Trains to train.steps or schedule.until, or until `stop`, train.max_minutes or train.early_stopping;
  /// saves, and validates unless stopped. Throws `failure` after train.max_nonfinite_steps consecutive steps
  /// that were not finite, and if something cannot be written; the last good checkpoint stays.
  TrainResult run();

  /// After `run`: gives up the folder, so that another run can go on there, and the loader's thread. What
  /// follows still holds.
  void close();

  PerceiverAR& model() const { return *model_; }
  const Dataset& data() const { return *data_; }
  const Learner& learner() const { return *learner_; }
  const CheckpointState& state() const { return state_; }
  const Config& config() const { return config_; }

  /// A copy of the present weights, or of their moving average, on a context of its own, and what its file
  /// would say. Collective; nothing on the ranks that do not lead.
  LoadedModel copy_of_model() const;

 private:
  bool leads() const { return options_.world == nullptr || options_.world->leads(); }
  bool any_rank(bool mine, std::string_view what) const;
  /// Whether this process writes to a run folder.
  bool writes() const { return leads() && folder_; }
  std::string folder_name() const { return folder_ ? folder_->name() : ""; }
  std::optional<RunFolder> open_folder() const;
  /// Throws `user` if ranks differ in configuration or data.
  void check_ranks() const;
  ResumePoint find_resume_point() const;
  StepSignals signals() const;
  /// Of schedule.until: the share that is over, 0 to 1, as all ranks see it; and after so many seconds.
  double schedule_used() const;
  double share_of_schedule(double seconds) const;
  /// Records the environment and hands the header to the observer.
  void introduce();
  void start();
  void resume();
  /// Loader, config.yaml and log, continuing after the newest checkpoint.
  void open_files();
  /// Compares data and configuration with those of the run so far. Throws `user` for what makes it another
  /// run. Returns what there is to say about the data, or "".
  std::string check_same_run(const CheckpointState& before) const;
  /// Makes the link `best` agree with the resumed state.
  void link_best();
  int64_t next_stop() const;
  void start_steps();
  /// Finishes a step; starts further ones first unless `draining`.
  void step(bool draining);
  void account(const StepReport& report, double seconds);
  void reject(StepReport report);
  bool save_is_due() const;
  /// Does the validation and writes the checkpoint that are due now.
  void evaluate_and_save();
  void log(bool partial);
  /// True if this was the best validation of the run. evaluate_or_save saves before it rethrows.
  bool evaluate();
  bool evaluate_or_save();
  bool lacks_validation() const;
  /// What is due before the first step: the rest of an interrupted one's, or the score of loaded weights.
  void begin();
  /// What is due after the last step, which only the clock knew to be the last one.
  void end_schedule();
  /// Makes up for a validation, checkpoint or sample that is due and missing.
  void catch_up();
  /// Generates and writes the sample that is due now.
  void sample();
  bool stops_early() const;
  void explain_early_stop();
  void save();
  void save_if_finite();
  /// The newest checkpoint from before the rejected steps, for an error message.
  std::string last_good_checkpoint() const;
  bool weights_are_finite() const;
  TrainResult finish(TrainStatus status);
  /// Why the run ends in a folder that was moved, whose new place has its checkpoint.
  [[noreturn]] void explain_move() const;
  RunSummary summary() const;
  double seconds() const { return options_.clock ? options_.clock() : watch_.seconds(); }
  double elapsed() const { return state_.elapsed + seconds(); }
  double seconds_left() const;
  bool at_last_step() const;
  bool due(int64_t every) const;
  /// Whether to stop, or to end because time is up, as all ranks see it.
  bool stopped() const;
  bool out_of_time() const;
  /// As this process sees it.
  bool wants_to_stop() const;
  bool has_used_its_time() const;

  Config config_;
  TrainerOptions options_;
  std::shared_ptr<DeviceContext> context_;
  std::unique_ptr<Dataset> data_;
  DataRecord record_;
  int64_t program_bytes_;            ///< of this process before the model
  std::optional<RunFolder> folder_;  ///< none: nothing is written
  LearnerRanks ranks_;
  StepSignals agreed_;  ///< of the latest step
  std::unique_ptr<PerceiverAR> model_;
  std::unique_ptr<Learner> learner_;
  CheckpointState state_;  ///< `elapsed`: before this process
  std::optional<RunLog> log_;
  std::unique_ptr<TrainingSamples> samples_;  ///< null: none
  std::unique_ptr<Loader> loader_;
  Batch batch_;
  StepReport last_;                                 ///< the last step
  StepClock clock_;                                 ///< since the last entry of the log
  StepClock whole_;                                 ///< since this process started
  std::optional<EvalEntry> last_eval_, best_eval_;  ///< of this process
  SaveTimer save_timer_;
  Stopwatch watch_;         ///< since this process started
  int64_t logged_ = 0;      ///< step of the last entry of the log
  int64_t saved_ = -1;      ///< step of the newest checkpoint; -1: none
  int64_t confirmed_ = -1;  ///< step of the newest checkpoint that a finite step followed
  bool over_ = false;       ///< the time of schedule.until is up, and no step in flight
  bool sound_ = false;      ///< whether the latest step or validation was finite
  bool changed_ = true;     ///< since the newest checkpoint
  bool owes_save_ = false;  ///< a checkpoint was due at a rejected step
};

}  // namespace perceiver
