// What a run does between steps besides validation and checkpoints: its beginning, samples, early stopping.
#include "base/check.h"
#include "train/trainer.h"

namespace perceiver {

void Trainer::begin() {
  if (state_.step > 0) return catch_up();  // the run may have been stopped during a validation or a sample
  const bool scores = !config_.train.initialize.empty() && lacks_validation() && !stopped();
  if (scores && evaluate_or_save() && config_.checkpoint.keep_best) save_if_finite();
}

void Trainer::end_schedule() {
  over_ = true;
  if (logged_ != state_.step) log(false);
  catch_up();
}

void Trainer::catch_up() {
  evaluate_and_save();
  if (any_rank(samples_ && !samples_->exists(state_.step), "whether a sample is missing")) sample();
}

void Trainer::sample() {
  const int64_t every = config_.train.sample_every;
  if (every == 0 || !due(every) || stopped()) return;
  if (!weights_are_finite())
    return log_->warn(fmt::format("no sample at step {}: some weights are not finite", state_.step));
  const AveragedWeights averaged(*learner_);
  if (!samples_) return;  // rank 0 makes it
  try {
    const std::optional<SampleEntry> entry = samples_->make(state_.step, [this] {
      if (options_.world != nullptr) options_.world->still_working();  // the others wait
      return wants_to_stop();
    });
    if (entry) log_->add(*entry);
  } catch (const Error& error) {  // not worth ending a run for
    log_->warn(fmt::format("no sample at step {}: {}", state_.step, error.what()));
  }
}

bool Trainer::stops_early() const {
  const int64_t most = config_.train.early_stopping;
  return most > 0 && state_.patience.validations >= most && learner_->in_flight() == 0;
}

void Trainer::explain_early_stop() {
  const Patience& patience = state_.patience;
  std::string text = fmt::format("training stops early: {} validations in a row", patience.validations);
  if (patience.reference) text += fmt::format(" did not get below {:.4f} nats", *patience.reference);
  const double delta = config_.train.early_stopping_delta;
  if (patience.reference && delta > 0) text += fmt::format(" by more than {}", delta);
  if (!patience.reference) text += " had no finite loss";
  if (state_.best) text += fmt::format("; best: {:.4f} at step {}", state_.best->loss, state_.best->step);
  log_->message(text);
}

}  // namespace perceiver
