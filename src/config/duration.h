// Lengths of time as people write them: 90s, 20m, 1.5h.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace perceiver {

/// Seconds of "90s", "20m" or "1.5h", finite and not negative; 0 may be without a unit. Nothing if it is no
/// such text.
std::optional<double> read_duration(std::string_view text);

/// The same in the largest of the three units of which it is a whole number, or in seconds; reads back
/// exactly.
std::string format_duration(double seconds);

}  // namespace perceiver
