#include "train/progress.h"

#include <fmt/format.h>

#include <cmath>

namespace perceiver {
namespace {

std::string rate_text(double rate) {
  if (rate >= 1e6) return fmt::format("{:.2f}M", rate / 1e6);
  if (rate >= 1e4) return fmt::format("{:.1f}k", rate / 1e3);
  return fmt::format("{:.0f}", rate);
}

}  // namespace

std::string duration_text(double seconds) {
  if (!(seconds >= 0) || seconds > 1e15) return "?";
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  const int64_t minutes = whole / 60, hours = minutes / 60, days = hours / 24;
  if (days > 0) return fmt::format("{}d {:02}:{:02}", days, hours % 24, minutes % 60);
  if (hours > 0) return fmt::format("{}:{:02}:{:02}", hours, minutes % 60, whole % 60);
  return fmt::format("{}:{:02}", minutes, whole % 60);
}

std::string progress_line(const LogEntry& entry) {
  std::string line = fmt::format("step {}/{}  loss {:.4f} nats {:.4f} bits  lr {:.2e}  {} tokens/s  {} left",
                                 entry.step, entry.steps, entry.loss, entry.bits(), entry.learning_rate,
                                 rate_text(entry.targets_per_second), duration_text(entry.remaining));
  if (entry.skipped > 0) line += fmt::format("  {} skipped", entry.skipped);
  return line;
}

std::string progress_line(const EvalEntry& entry) {
  std::string line =
      fmt::format("step {}  validation loss {:.4f} nats {:.4f} bits", entry.step, entry.loss, entry.bits());
  if (entry.bits_per_unit) line += fmt::format(", {:.4f} bits per {}", *entry.bits_per_unit, entry.unit);
  if (entry.is_best) line += " (best so far)";
  return line;
}

}  // namespace perceiver
