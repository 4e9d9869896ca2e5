#include "train/run_log.h"

#include <array>

namespace perceiver {
namespace {

std::filesystem::path continued(const std::filesystem::path& metrics, int64_t step) {
  drop_metrics_after(metrics, step);
  return metrics;
}

}  // namespace

TrainObserver::~TrainObserver() = default;

RunLog::RunLog(const RunFolder* folder, int64_t step, bool tensorboard, TrainObserver* observer)
    : observer_(observer) {
  if (folder == nullptr) return;
  metrics_.emplace(continued(folder->metrics(), step));
  if (tensorboard) events_.emplace(folder->tensorboard(), step + 1);
}

void RunLog::add(const LogEntry& entry) {
  if (metrics_) metrics_->add(entry);
  if (events_) {
    const std::array<Scalar, 6> scalars{{{"train/loss", entry.loss},
                                         {"train/bits", entry.bits()},
                                         {"train/accuracy", entry.accuracy},
                                         {"train/grad_norm", entry.gradient_norm},
                                         {"train/learning_rate", entry.learning_rate},
                                         {"train/targets_per_second", entry.targets_per_second}}};
    events_->add(entry.step, scalars);
  }
  if (observer_ != nullptr) observer_->on_log(entry);
}

void RunLog::add(const EvalEntry& entry) {
  if (metrics_) metrics_->add(entry);
  if (events_) {
    const std::array<Scalar, 2> scalars{{{"validation/loss", entry.loss}, {"validation/bits", entry.bits()}}};
    events_->add(entry.step, scalars);
  }
  if (observer_ != nullptr) observer_->on_eval(entry);
}

void RunLog::add(const SampleEntry& entry) {
  if (observer_ != nullptr) observer_->on_sample(entry);
}

void RunLog::checkpoint(int64_t step, const std::filesystem::path& path) {
  if (observer_ != nullptr) observer_->on_checkpoint(step, path);
}

void RunLog::message(const std::string& text) {
  if (observer_ != nullptr) observer_->on_message(Severity::info, text);
}

void RunLog::warn(const std::string& text) {
  if (observer_ != nullptr) observer_->on_message(Severity::warning, text);
}

}  // namespace perceiver
