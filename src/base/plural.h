// Counts in messages: "1 document", "2 documents".
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace perceiver {

/// The noun, with an s unless `count` is one: "document", "documents".
template <typename Count>
std::string plural(Count count, std::string_view noun) {
  return fmt::format("{}{}", noun, count == 1 ? "" : "s");
}

/// The number and the noun: "1 document", "12 documents".
template <typename Count>
std::string counted(Count count, std::string_view noun) {
  return fmt::format("{} {}", count, plural(count, noun));
}

}  // namespace perceiver
