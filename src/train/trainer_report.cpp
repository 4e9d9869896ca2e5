// How a run introduces itself, sums up, and explains an end in a folder that was moved.
#include "base/check.h"
#include "train/environment.h"
#include "train/run_report.h"
#include "train/trainer.h"

namespace perceiver {

void Trainer::introduce() {
  if (!leads()) return;
  if (folder_) {
    append_environment(*folder_,
                       {.step = state_.step,
                        .command = options_.command,
                        .seed = config_.train.seed,
                        .precision = config_.train.precision,
                        .data = record_,
                        .ranks = ranks_.all ? ranks_.all->size() : 1,
                        .communicator = ranks_.all ? ranks_.all->name() : ""},
                       *model_);
    write_file_remarks(*folder_, *data_);
  }
  if (options_.observer == nullptr) return;
  RunHeader header = make_header(config_, *data_, record_, *model_, *learner_, program_bytes_);
  header.folder = folder_name();
  header.step = state_.step;
  if (ranks_.all) {
    header.ranks = ranks_.all->size();
    header.communicator = ranks_.all->name();
  }
  options_.observer->on_start(header);
}

RunSummary Trainer::summary() const {
  RunSummary summary;
  summary.step = state_.step;
  summary.seconds = seconds();
  summary.elapsed = elapsed();
  summary.targets_per_second = whole_.per_second(whole_.targets);
  summary.skipped = state_.skipped;
  summary.folder = folder_name();
  const auto known = [](const EvalEntry& entry) {
    return ValidationSummary{entry.step, entry.loss, entry.bits_per_unit, entry.unit};
  };
  if (state_.best) summary.best = ValidationSummary{state_.best->step, state_.best->loss, {}, {}};
  if (state_.validation_loss)
    summary.last = ValidationSummary{state_.validated, *state_.validation_loss, {}, {}};
  if (best_eval_) summary.best = known(*best_eval_);
  if (last_eval_) summary.last = known(*last_eval_);
  const std::optional<int64_t> best = folder_ ? folder_->checkpoints().best() : std::nullopt;
  if (best) summary.best_checkpoint = folder_->checkpoints().path(*best);
  return summary;
}

void Trainer::explain_move() const {
  throw_failure(
      "{}: the run folder was moved to {} during training; the run ended at step {} with a checkpoint there; "
      "continue it with --resume in that folder",
      folder_->moved_from().string(), folder_->name(), state_.step);
}

}  // namespace perceiver
