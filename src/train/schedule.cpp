#include "perceiver/experimental/schedule.h"

#include <algorithm>
#include <cmath>

namespace perceiver {
namespace {

/// Completed fraction of the decay, 0 to 1.
double decay_progress(const Config& config, int64_t step, double used) {
  if (config.schedule.until > 0) return std::clamp(used, 0.0, 1.0);
  const int64_t begin = config.schedule.warmup_steps;
  const int64_t end = config.schedule.decay_steps > 0 ? config.schedule.decay_steps : config.train.steps;
  const auto span = static_cast<double>(std::max<int64_t>(1, end - begin));
  return std::clamp(static_cast<double>(step - begin) / span, 0.0, 1.0);
}

double step_factor(const ScheduleConfig& schedule, int64_t step) {
  double factor = 1;
  for (size_t i = 0; i < schedule.step_boundaries.size(); ++i)
    if (step >= schedule.step_boundaries[i]) factor *= schedule.step_factors[i];
  return factor;
}

double rate_after_warmup(const Config& config, int64_t step, double used) {
  const ScheduleConfig& schedule = config.schedule;
  const double base = config.optimizer.learning_rate, last = schedule.final_learning_rate;
  switch (schedule.type) {
    case ScheduleType::constant:
      return base;
    case ScheduleType::cosine:
      return last + (base - last) * 0.5 * (1 + std::cos(M_PI * decay_progress(config, step, used)));
    case ScheduleType::linear:
      return base + (last - base) * decay_progress(config, step, used);
    case ScheduleType::steps:
      return base * step_factor(schedule, step);
    case ScheduleType::t5: {
      const int64_t warmup = std::max<int64_t>(1, schedule.warmup_steps);
      return base * std::sqrt(static_cast<double>(warmup) / static_cast<double>(std::max(step, warmup)));
    }
  }
  return base;
}

}  // namespace

double learning_rate(const Config& config, int64_t step, double used) {
  const ScheduleConfig& schedule = config.schedule;
  if (step >= schedule.warmup_steps) return rate_after_warmup(config, step, used);
  const double target =
      schedule.until > 0 ? rate_after_warmup(config, step, used) : config.optimizer.learning_rate;
  return schedule.warmup_initial + (target - schedule.warmup_initial) * static_cast<double>(step) /
                                       static_cast<double>(schedule.warmup_steps);
}

}  // namespace perceiver
