#include "train/trainer.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace perceiver {
namespace {

/// What the first rank found that found anything.
std::string first_offender(World& world, const std::string& mine) {
  for (const std::string& each : world.gather(mine, "what is not finite"))
    if (each != Learner::kNoOffender) return each;
  return Learner::kNoOffender;
}

}  // namespace

TrainResult Trainer::run() {
  introduce();
  begin();
  while (!at_last_step()) {
    if (stops_early()) return finish(TrainStatus::stopped_early);
    const bool stops = stopped(), over = schedule_used() >= 1, ends = stops || over || out_of_time();
    if (ends && learner_->in_flight() == 0) {
      if (stops) return finish(TrainStatus::interrupted);
      if (!over) return finish(TrainStatus::out_of_time);
      end_schedule();
      break;
    }
    step(ends);
    if (due(config_.train.log_every)) log(false);
    evaluate_and_save();
    sample();
  }
  return finish(TrainStatus::finished);
}

/// The next step after which weights or state are read: no later step may be in flight then.
int64_t Trainer::next_stop() const {
  if (owes_save_) return state_.step + 1;
  int64_t stop = config_.schedule.until > 0 ? std::numeric_limits<int64_t>::max() : config_.train.steps;
  for (const int64_t every : {config_.eval.every, config_.checkpoint.every, config_.train.sample_every})
    if (every > 0) stop = std::min(stop, (state_.step / every + 1) * every);
  return stop;
}

void Trainer::start_steps() {
  const int64_t stop = next_stop();
  while (learner_->in_flight() < learner_->capacity()) {
    const int64_t step = state_.step + learner_->in_flight();
    if (step >= stop) return;
    loader_->next(batch_);
    learner_->start(step, batch_, signals(), schedule_used());
  }
}

void Trainer::step(bool draining) {
  const Stopwatch watch;
  if (!draining) start_steps();
  const StepReport report = learner_->finish();
  ++state_.step;
  last_ = report;
  agreed_ = report.signals;
  changed_ = true;
  sound_ = report.finite;
  account(report, watch.seconds());
  if (!report.finite) return reject(report);
  state_.rejected = 0;
  state_.loss = report.sums.mean(report.sums.nll);
  if (saved_ == confirmed_) return;
  confirmed_ = saved_;
  if (!writes()) return;
  folder_->check_place();  // whatever has its name now is not to be pruned
  folder_->checkpoints().prune(config_.checkpoint.keep);
}

void Trainer::account(const StepReport& report, double seconds) {
  for (StepClock* clock : {&clock_, &whole_}) clock->add(report.sums.targets, report.inputs, seconds);
  if (!report.finite) return;
  state_.interval.add(report.sums);
  ++state_.clipping.steps;
  const double most = config_.optimizer.clip_norm;
  if (most > 0 && report.gradient_norm > most) ++state_.clipping.clipped;
}

void Trainer::reject(StepReport report) {
  if (options_.world != nullptr) report.offender = first_offender(*options_.world, report.offender);
  ++state_.rejected;
  ++state_.skipped;
  log_->warn(fmt::format(
      "step {}: loss {}, gradient norm {}; first at fault: {}; step skipped ({} in a row, {} in all)",
      state_.step, report.sums.mean(report.sums.loss), report.gradient_norm, report.offender, state_.rejected,
      state_.skipped));
  if (state_.rejected < config_.train.max_nonfinite_steps) return;
  throw_failure(
      "training stopped at step {}: {} steps in a row had a non-finite loss or gradient, first at fault: {}; "
      "last good checkpoint: {}; try a lower optimizer.learning_rate, a longer "
      "schedule.warmup_steps or a smaller optimizer.clip_norm",
      state_.step, state_.rejected, report.offender, last_good_checkpoint());
}

std::string Trainer::last_good_checkpoint() const {
  if (!folder_) return "none";
  const CheckpointStore& store = folder_->checkpoints();
  if (confirmed_ >= 0) return store.path(confirmed_).string();
  std::vector<int64_t> steps = store.steps();
  std::erase_if(steps, [&](int64_t step) { return step > state_.step - state_.rejected; });
  return steps.empty() ? "none" : store.path(steps.back()).string();
}

bool Trainer::at_last_step() const {
  return config_.schedule.until > 0 ? over_ : state_.step >= config_.train.steps;
}

bool Trainer::due(int64_t every) const {
  return at_last_step() || (every > 0 && state_.step % every == 0);
}

// A skipped step leaves the weights unchanged, so they could still be saved. But if the weights are at fault,
// every checkpoint written now would be useless: one that falls due waits for the next finite step or the end
// of the run. That last one may be useless too, so no other is removed for it: `prune` runs only after a
// finite step.
void Trainer::evaluate_and_save() {
  const bool validates = due(config_.eval.every) && lacks_validation() && !stopped();
  const bool best = validates && evaluate_or_save();
  const bool save_due = folder_ && changed_ && (due(config_.checkpoint.every) || save_is_due());
  owes_save_ = owes_save_ || save_due;
  // What the clock asks for may find steps in flight; no other starts until they are done.
  const bool ready = state_.rejected == 0 && learner_->in_flight() == 0;
  const bool saves = (best && config_.checkpoint.keep_best) || (owes_save_ && ready);
  if (saves) save_if_finite();
}

double Trainer::seconds_left() const {
  if (config_.schedule.until > 0) return std::max(0.0, config_.schedule.until - elapsed());
  return clock_.seconds_per_step() * static_cast<double>(config_.train.steps - state_.step);
}

void Trainer::log(bool partial) {
  const LossSums& sums = state_.interval;
  LogEntry entry;
  entry.step = state_.step;
  entry.steps = config_.planned_steps();
  entry.loss = sums.mean(sums.nll);
  entry.objective = sums.mean(sums.loss);
  entry.z_loss = sums.mean(sums.z_loss);
  entry.accuracy = sums.mean(sums.correct);
  entry.gradient_norm = last_.gradient_norm;
  entry.learning_rate = last_.learning_rate;
  entry.targets_per_second = clock_.per_second(clock_.targets);
  entry.inputs_per_second = clock_.per_second(clock_.inputs);
  entry.elapsed = elapsed();
  entry.remaining = seconds_left();
  entry.skipped = state_.skipped;
  entry.clipped = config_.optimizer.clip_norm > 0 ? state_.clipping.share() : std::nan("");
  entry.memory_bytes = model_->context().statistics().peak_bytes;
  entry.partial = partial;
  logged_ = state_.step;
  log_->add(entry);
  if (writes()) folder_->check_place();
  if (partial) return;  // a resumed run continues the interval as if it had not stopped
  state_.interval = {};
  state_.clipping = {};
  clock_ = {};
}

bool Trainer::lacks_validation() const {
  return options_.validate && state_.validated != state_.step && data_->documents(Split::validation) > 0;
}

bool Trainer::evaluate_or_save() {
  try {
    return evaluate();
  } catch (...) {
    // A failed validation must not lose the steps before it; but other ranks may not have failed.
    if (changed_ && options_.world == nullptr) save_if_finite();
    throw;
  }
}

bool Trainer::evaluate() {
  const Stopwatch watch;
  const AveragedWeights averaged(*learner_);
  const std::optional<ValidationScore> score = options_.validate(*model_, *data_, ranks_);
  if (!score) {
    agreed_.stop = 1;  // the reason, on every rank
    return false;
  }
  const bool finite = std::isfinite(score->loss);
  EvalEntry entry;
  entry.step = state_.step;
  entry.loss = score->loss;
  entry.bits_per_unit = score->bits_per_unit;
  entry.unit = score->unit;
  entry.seconds = watch.seconds();
  entry.elapsed = elapsed();
  entry.by_position = score->by_position;
  entry.is_best = finite && (!state_.best || score->loss < state_.best->loss);
  if (finite) state_.validation_loss = score->loss;
  if (entry.is_best) state_.best = BestValidation{state_.step, score->loss};
  state_.patience.add(score->loss, config_.train.early_stopping_delta);
  state_.validated = state_.step;
  changed_ = true;
  sound_ = sound_ && finite;
  log_->add(entry);
  last_eval_ = entry;
  if (entry.is_best) best_eval_ = entry;
  return entry.is_best;
}

bool Trainer::weights_are_finite() const {
  return !any_rank(!learner_->weights_are_finite(), "whether weights are finite");
}

void Trainer::save() {
  if (!folder_) {
    changed_ = false;
    return;
  }
  const Stopwatch watch;
  if (leads()) folder_->check_place();
  CheckpointState state = state_;
  state.elapsed = elapsed();
  state.updates = learner_->updates();
  const CheckpointStore& store = folder_->checkpoints();
  const auto working = [this] {
    if (options_.world != nullptr) options_.world->still_working();  // the others wait
  };
  write_checkpoint(store.path(state_.step), state, *model_, *learner_,
                   {data_->tokenizer(), data_->modality()}, leads(), working);
  if (leads() && state_.best && state_.best->step == state_.step && config_.checkpoint.keep_best)
    store.set_best(state_.step);
  saved_ = state_.step;
  changed_ = owes_save_ = false;
  save_timer_.saved(watch.seconds());
  log_->checkpoint(state_.step, store.path(state_.step));
}

void Trainer::save_if_finite() {
  if (weights_are_finite()) return save();
  log_->warn(fmt::format("no checkpoint at step {}: some weights are not finite", state_.step));
}

TrainResult Trainer::finish(TrainStatus status) {
  if (writes()) folder_->check_place();
  if (logged_ != state_.step) log(true);
  const bool validates = status != TrainStatus::interrupted && lacks_validation();
  if (validates && !stopped()) evaluate_or_save();
  if (validates && lacks_validation()) status = TrainStatus::interrupted;  // during its validation
  if (changed_ && !weights_are_finite())
    throw_failure(
        "no checkpoint at step {}, where training ended: some weights are not finite; last good checkpoint: "
        "{}; try a lower optimizer.learning_rate or a longer schedule.warmup_steps",
        state_.step, last_good_checkpoint());
  if (changed_) save();
  if (status == TrainStatus::stopped_early) explain_early_stop();
  if (folder_ && folder_->moved()) explain_move();
  const bool complete = status == TrainStatus::finished || status == TrainStatus::stopped_early;
  if (complete && sound_ && writes()) folder_->checkpoints().prune(config_.checkpoint.keep);
  return {status, state_.step, saved_ >= 0 ? folder_->checkpoints().path(saved_) : std::filesystem::path(),
          summary()};
}

}  // namespace perceiver
