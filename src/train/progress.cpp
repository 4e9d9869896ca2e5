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

std::vector<LineField> progress_fields(const LogEntry& entry) {
  std::vector<LineField> fields{
      {entry.steps > 0 ? fmt::format("step {}/{}", entry.step, entry.steps)
                       : fmt::format("step {}", entry.step),
       0},
      {fmt::format("  loss {:.4f} nats", entry.loss), 1},
      {fmt::format(" {:.4f} bits", entry.bits()), 8},
      {fmt::format("  lr {:.2e}", entry.learning_rate), 6},
  };
  if (std::isfinite(entry.gradient_norm))
    fields.push_back({fmt::format("  gradient {:.3g}", entry.gradient_norm), 5});
  if (std::isfinite(entry.gradient_norm) && std::isfinite(entry.clipped))
    fields.push_back({fmt::format(", {:.0f}% clipped", 100 * entry.clipped), 7});
  if (entry.targets_per_second > 0) {  // else no step was timed
    fields.push_back({fmt::format("  {} tokens/s", rate_text(entry.targets_per_second)), 4});
    fields.push_back({fmt::format("  {} left", duration_text(entry.remaining)), 2});
  }
  if (entry.skipped > 0) fields.push_back({fmt::format("  {} skipped", entry.skipped), 3});
  return fields;
}

std::string progress_line(const LogEntry& entry) {
  std::string line;
  for (const LineField& field : progress_fields(entry)) line += field.text;
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
