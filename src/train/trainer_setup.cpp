// Opening a run: folder, data, model, and the state to resume from.
#include <algorithm>
#include <limits>

#include "base/check.h"
#include "config/save.h"
#include "perceiver/experimental/schedule.h"
#include "train/config_change.h"
#include "train/connect_ranks.h"
#include "train/initialize.h"
#include "train/open_run.h"
#include "train/trainer.h"

namespace perceiver {

Trainer::Trainer(Config config, TrainerOptions options)
    : config_(resolved(std::move(config))),
      options_(std::move(options)),
      context_(open_device(config_, options_.world, options_.device_index)),
      data_(open_fitting(config_, options_.data)),
      record_(record_of(*data_)),
      program_bytes_(resident_bytes()),
      folder_(open_folder()),
      save_timer_(config_.checkpoint.minutes) {
  check_ranks();
  ranks_ = connect_ranks(options_.world, config_, *context_);
  const bool continues = any_rank(writes() && options_.resume && !folder_->checkpoints().steps().empty(),
                                  "whether the run continues");
  model_ = make_model(config_, context_);
  if (config_.train.early_stopping > 0 && data_->documents(Split::validation) == 0)
    throw_user(
        "train.early_stopping needs data to validate on; set data.validation or data.validation_fraction");
  if (config_.train.sample_every > 0 && !folder_)
    throw_user(
        "train.sample_every writes samples to the run folder, and there is none; name one or set it to 0");
  if (config_.train.sample_every > 0 && leads())
    samples_ = std::make_unique<TrainingSamples>(config_.train, *data_, *model_, folder_->samples());
  if (continues) {
    resume();
  } else {
    start();
  }
}

void Trainer::start() {
  model_->parameters().initialize(config_.train.seed);
  const std::vector<std::string> taken = load_initial_weights(config_.train, *data_, *model_);
  learner_ = std::make_unique<Learner>(config_, *model_, ranks_);
  state_.config = config_;
  state_.data = record_;
  open_files();
  for (const std::string& text : taken) log_->message(text);
  if (options_.resume)
    log_->message(fmt::format("{} holds no checkpoint yet; the run starts at step 0", folder_->name()));
}

void Trainer::resume() {
  ResumePoint point = find_resume_point();
  const std::string about_data = check_same_run(point.state);
  state_ = std::move(point.state);
  state_.config = config_;
  state_.data = record_;
  saved_ = state_.step;
  changed_ = false;
  // If no step follows, an interval that was cut short is logged again at the end.
  logged_ = state_.interval.targets > 0 ? -1 : state_.step;
  last_.gradient_norm = std::numeric_limits<double>::quiet_NaN();
  agreed_.used = share_of_schedule(state_.elapsed);  // what every rank has read
  last_.learning_rate = learning_rate(config_, std::max<int64_t>(0, state_.step - 1), agreed_.used);
  const CheckpointStore& store = folder_->checkpoints();
  load_checkpoint_weights(store.path(state_.step), *model_);
  learner_ = std::make_unique<Learner>(config_, *model_, ranks_);
  load_checkpoint_state(store.path(state_.step), *learner_);
  open_files();

  const std::string source = store.path(state_.step).string();
  for (const DamagedCheckpoint& damaged : point.damaged)
    log_->warn(
        fmt::format("the checkpoint of step {} is damaged ({}); it was renamed to {}, and {} is used instead",
                    damaged.step, damaged.reason, store.set_aside(damaged.step).string(), source));
  if (config_.checkpoint.keep_best) link_best();
  log_->message(fmt::format("resuming {} at step {}", source, state_.step));
  if (!about_data.empty()) log_->message(about_data);
}

std::string Trainer::check_same_run(const CheckpointState& before) const {
  const bool same = same_data(before.data, record_);
  const bool proven = same && record_.fingerprint != 0 && before.data.fingerprint != 0;
  check_config_change(before.config, config_, folder_->name(), options_.accept_new_data || proven);
  if (before.data.empty() && !data_->unbounded())
    return "the checkpoint holds no record of the data, so whether it has changed is unknown";
  if (same) return "";
  const std::string difference = describe_difference(before.data, record_);
  if (!options_.accept_new_data)
    throw_user(
        "{}: the data has changed since step {} of the run ({}); restore it, start a new run in another "
        "folder, or go on with --accept-new-data",
        fmt::join(config_.data.train, ", "), before.step, difference);
  return fmt::format("the data has changed since step {} ({}); the run goes on with the new data",
                     before.step, difference);
}

void Trainer::open_files() {
  loader_ = std::make_unique<Loader>(*data_, Split::train, config_.model, learner_->share(),
                                     config_.train.seed, state_.step, config_.train.crops);
  if (!leads()) {
    log_.emplace();
    return;
  }
  if (folder_) write_file_atomically(folder_->config(), to_yaml(config_));
  log_.emplace(folder_ ? &*folder_ : nullptr, saved_, config_.train.tensorboard, options_.observer);
  for (const std::string& note : data_->notes()) log_->warn(note);
}

void Trainer::link_best() {
  // A process may have been killed between writing a checkpoint and linking it; and the best checkpoint may
  // be gone if the run falls back to an earlier one.
  const CheckpointStore& store = folder_->checkpoints();
  const std::vector<int64_t> steps = store.steps();
  const bool kept = state_.best && std::find(steps.begin(), steps.end(), state_.best->step) != steps.end();
  if (!kept) {
    state_.best.reset();
    if (leads()) store.clear_best();
  } else if (leads() && store.best() != state_.best->step) {
    store.set_best(state_.best->step);
  }
}

}  // namespace perceiver
