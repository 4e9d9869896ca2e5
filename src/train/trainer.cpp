#include "train/trainer.h"

#include <algorithm>
#include <cmath>

#include "config/save.h"
#include "config/validate.h"
#include "core/check.h"
#include "model/precision.h"
#include "train/config_change.h"

namespace perceiver {
namespace {

Config checked(Config config) {
  resolve(config);
  validate(config);
  return config;
}

std::unique_ptr<Dataset> open_fitting(const Config& config) {
  std::unique_ptr<Dataset> data = open_dataset(config.data);
  check_fits(*data, config.model);
  return data;
}

/// A folder to resume from is not made by looking for it.
const std::filesystem::path& checked(const TrainOptions& options) {
  std::error_code ignored;
  if (options.resume && !std::filesystem::is_directory(options.folder, ignored))
    throw_user("{}: there is no such folder to resume a run in", options.folder.string());
  return options.folder;
}

std::shared_ptr<DeviceContext> open_device(const Config& config) {
  auto context = DeviceContext::open(config.device, static_cast<int>(config.threads));
  apply_precision(config.train.precision, *context);
  return context;
}

DataDescription describe(const Dataset& data, DatasetType type) {
  return {data.tokenizer(), type == DatasetType::text ? "text" : "copy"};
}

}  // namespace

Trainer::Trainer(Config config, TrainOptions options)
    : config_(checked(std::move(config))),
      options_(std::move(options)),
      context_(open_device(config_)),
      data_(open_fitting(config_)),
      folder_(checked(options_)) {
  model_ = std::make_unique<PerceiverAR>(config_.model, context_,
                                         apply_precision(config_.train.precision, *context_));
  if (options_.resume) {
    resume();
  } else {
    start();
  }
  write_file_atomically(folder_.config(), to_yaml(config_));
  loader_ = std::make_unique<Loader>(*data_, Split::train, config_.model, config_.train.batch,
                                     config_.train.seed, state_.step);
}

void Trainer::start() {
  folder_.require_no_run();
  model_->parameters().initialize(config_.train.seed);
  learner_ = std::make_unique<Learner>(config_, *model_);
  state_.config = config_;
  log_.emplace(folder_, -1, config_.train.tensorboard, options_.observer);
}

void Trainer::resume() {
  ResumePoint point = folder_.find_resume_point();
  check_config_change(point.state.config, config_, folder_.name());
  state_ = std::move(point.state);
  state_.config = config_;
  saved_ = state_.step;
  const CheckpointStore& store = folder_.checkpoints();
  learner_ = std::make_unique<Learner>(config_, *model_);
  load_checkpoint(store.path(state_.step), *model_, *learner_);
  log_.emplace(folder_, state_.step, config_.train.tensorboard, options_.observer);

  const std::string source = store.path(state_.step).string();
  for (const DamagedCheckpoint& damaged : point.damaged)
    log_->message(
        fmt::format("the checkpoint of step {} is damaged ({}); it is now {}, and {} is used instead",
                    damaged.step, damaged.reason, store.set_aside(damaged.step).string(), source));
  if (config_.checkpoint.keep_best) link_best();
  log_->message(fmt::format("resuming {} at step {}", source, state_.step));
}

void Trainer::link_best() {
  // A process killed between writing a checkpoint and linking it left the link to be made here; and the best
  // checkpoint may be gone if the run goes back to one before it.
  const CheckpointStore& store = folder_.checkpoints();
  const std::vector<int64_t> steps = store.steps();
  const bool kept = state_.best && std::find(steps.begin(), steps.end(), state_.best->step) != steps.end();
  if (!kept) {
    state_.best.reset();
    store.clear_best();
  } else if (store.best() != state_.best->step) {
    store.set_best(state_.best->step);
  }
}

TrainResult Trainer::run() {
  while (state_.step < config_.train.steps) {
    if (stopped()) return finish(TrainStatus::interrupted);
    if (out_of_time()) return finish(TrainStatus::out_of_time);
    step();
    after_step();
  }
  return finish(TrainStatus::finished);
}

bool Trainer::stopped() const {
  return options_.stop != nullptr && options_.stop->load(std::memory_order_relaxed);
}

bool Trainer::out_of_time() const {
  return config_.train.max_minutes > 0 && watch_.seconds() >= 60 * config_.train.max_minutes;
}

void Trainer::step() {
  const Stopwatch watch;
  loader_->next(batch_);
  const StepReport report = learner_->step(state_.step, batch_);
  ++state_.step;
  last_ = report;
  account(report, watch.seconds());
  if (!report.finite) return reject(report);
  rejected_ = 0;
  state_.loss = report.sums.mean(report.sums.nll);
  if (saved_ == confirmed_) return;
  confirmed_ = saved_;
  folder_.checkpoints().prune(config_.checkpoint.keep);
}

void Trainer::account(const StepReport& report, double seconds) {
  ++clock_.steps;
  clock_.seconds += seconds;
  clock_.targets += report.sums.targets;
  clock_.inputs += report.inputs;
  if (report.finite) state_.interval.add(report.sums);
}

void Trainer::reject(const StepReport& report) {
  ++rejected_;
  ++state_.skipped;
  log_->message(fmt::format(
      "step {}: loss {}, gradient norm {}; first at fault: {}; the step is skipped ({} in a row, {} in all)",
      state_.step, report.sums.mean(report.sums.loss), report.gradient_norm, report.offender, rejected_,
      state_.skipped));
  if (rejected_ < config_.train.max_nonfinite_steps) return;
  const std::string kept = confirmed_ >= 0 ? folder_.checkpoints().path(confirmed_).string()
                           : saved_ >= 0   ? folder_.checkpoints().path(saved_).string()
                                           : "none";
  throw_failure(
      "training stopped at step {}: {} steps in a row had a loss or gradient that is not finite, first at "
      "fault: {}; last good checkpoint: {}; try a lower optimizer.learning_rate, a longer "
      "schedule.warmup_steps or a smaller optimizer.clip_norm",
      state_.step, rejected_, report.offender, kept);
}

bool Trainer::due(int64_t every) const {
  return state_.step == config_.train.steps || (every > 0 && state_.step % every == 0);
}

void Trainer::after_step() {
  if (due(config_.train.log_every)) log();
  const bool best = validates() && due(config_.eval.every) && evaluate_or_save();
  if (due(config_.checkpoint.every) || (best && config_.checkpoint.keep_best)) save();
}

void Trainer::log() {
  const LossSums& sums = state_.interval;
  LogEntry entry;
  entry.step = state_.step;
  entry.steps = config_.train.steps;
  entry.loss = sums.mean(sums.nll);
  entry.objective = sums.mean(sums.loss);
  entry.z_loss = sums.mean(sums.z_loss);
  entry.accuracy = sums.mean(sums.correct);
  entry.gradient_norm = last_.gradient_norm;
  entry.learning_rate = last_.learning_rate;
  entry.targets_per_second = clock_.per_second(clock_.targets);
  entry.inputs_per_second = clock_.per_second(clock_.inputs);
  entry.elapsed = elapsed();
  entry.remaining = clock_.seconds_per_step() * static_cast<double>(config_.train.steps - state_.step);
  entry.skipped = state_.skipped;
  state_.interval = {};
  clock_ = {};
  log_->add(entry);
}

bool Trainer::validates() const {
  return options_.validate && data_->documents(Split::validation) > 0;
}

bool Trainer::evaluate_or_save() {
  try {
    return evaluate();
  } catch (...) {
    save();  // a validation that fails must not cost the steps before it
    throw;
  }
}

bool Trainer::evaluate() {
  const Stopwatch watch;
  const AveragedWeights averaged(*learner_);
  const ValidationScore score = options_.validate(*model_, *data_);
  EvalEntry entry;
  entry.step = state_.step;
  entry.loss = score.loss;
  entry.bits_per_unit = score.bits_per_unit;
  entry.unit = score.unit;
  entry.seconds = watch.seconds();
  entry.is_best =
      rejected_ == 0 && std::isfinite(score.loss) && (!state_.best || score.loss < state_.best->loss);
  if (std::isfinite(score.loss)) state_.validation_loss = score.loss;
  if (entry.is_best) state_.best = BestValidation{state_.step, score.loss};
  log_->add(entry);
  return entry.is_best;
}

bool Trainer::weights_are_finite() const {
  const Tensor& values = model_->parameters().values();
  const Tensor counter = Tensor::empty(model_->context(), DType::f64, {1});  // as large as an int64
  kernels::count_non_finite(model_->context().launch(), {values.dtype(), values.elements(), values.data(),
                                                         static_cast<int64_t*>(counter.data())});
  int64_t count = 0;
  counter.copy_to_host(std::as_writable_bytes(std::span(&count, 1)));
  return count == 0;
}

void Trainer::save() {
  if (rejected_ > 0 || !weights_are_finite()) {
    log_->message(
        fmt::format("no checkpoint at step {}: {}", state_.step,
                    rejected_ > 0 ? "its loss or gradient was not finite" : "some weights are not finite"));
    return;
  }
  CheckpointState state = state_;
  state.elapsed = elapsed();
  state.updates = learner_->updates();
  const CheckpointStore& store = folder_.checkpoints();
  write_checkpoint(store.path(state_.step), state, *model_, *learner_, describe(*data_, config_.data.type));
  if (state_.best && state_.best->step == state_.step && config_.checkpoint.keep_best)
    store.set_best(state_.step);
  saved_ = state_.step;
  log_->checkpoint(state_.step, store.path(state_.step));
}

TrainResult Trainer::finish(TrainStatus status) {
  if (saved_ != state_.step) save();
  if (status == TrainStatus::finished && rejected_ == 0) folder_.checkpoints().prune(config_.checkpoint.keep);
  return {status, state_.step, saved_ >= 0 ? folder_.checkpoints().path(saved_) : std::filesystem::path()};
}

}  // namespace perceiver
