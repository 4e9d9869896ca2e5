#include "config/duration.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

namespace perceiver {
namespace {

struct Unit {
  char name;
  double seconds;
};
constexpr Unit units[] = {{'h', 3600}, {'m', 60}, {'s', 1}};  // the largest first

}  // namespace

std::optional<double> read_duration(std::string_view text) {
  double value = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || std::signbit(value)) return std::nullopt;
  if (rest == end) return value == 0 ? std::optional(value) : std::nullopt;
  for (const Unit& unit : units)
    if (rest + 1 == end && *rest == unit.name && std::isfinite(value * unit.seconds))
      return value * unit.seconds;
  return std::nullopt;
}

std::string format_duration(double seconds) {
  if (seconds == 0) return "0";
  for (const Unit& unit : units) {
    const double count = seconds / unit.seconds;
    if (std::floor(count) == count && count * unit.seconds == seconds)
      return fmt::format("{}{}", count, unit.name);
  }
  return fmt::format("{}s", seconds);
}

}  // namespace perceiver
