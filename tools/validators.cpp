#include "tools/validators.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>

#include "base/edit_distance.h"
#include "base/text.h"

namespace perceiver::program {
namespace {

bool is_integer(std::string_view text, bool negative) {
  uint64_t above = 0;
  int64_t below = 0;
  const char* end = text.data() + text.size();
  const auto whole = [&](auto result) { return result.ec == std::errc() && result.ptr == end; };
  if (negative && whole(std::from_chars(text.data(), end, below))) return true;
  return !negative && whole(std::from_chars(text.data(), end, above));
}

bool is_number(const std::string& text) {
  try {
    size_t end = 0;
    (void)std::stod(text, &end);
    return end == text.size();
  } catch (const std::exception&) {
    return false;
  }
}

/// What the value of an option of that type must be; "" for no number.
std::string_view expected_for(std::string_view type, const std::string& value) {
  const std::string_view first = type.substr(0, type.find_first_of(": "));
  if (first == "INT" && !is_integer(value, true)) return "a whole number";
  if (first == "UINT" && !is_integer(value, false)) return "a whole number from 0";
  if (first == "FLOAT" && !is_number(value)) return "a number";
  return "";
}

CLI::Validator number_check(std::function<bool(double)> allowed, std::string expected) {
  return CLI::Validator(
      [allowed = std::move(allowed), expected = std::move(expected)](std::string& value) -> std::string {
        if (is_number(value) && allowed(std::stod(value))) return "";
        return fmt::format("{} given; must be {}", quote(value), expected);
      },
      "");
}

}  // namespace

std::string unknown_word(std::string_view word, const std::vector<std::string_view>& choices) {
  const auto longer = std::find_if(choices.begin(), choices.end(), [&](std::string_view each) {
    return !word.empty() && each.starts_with(word);
  });
  const std::string_view nearest = longer != choices.end() ? *longer : choices[nearest_word(word, choices)];
  return fmt::format("{} is unknown; did you mean '{}'? The choices: {}", quote(word), nearest,
                     fmt::join(choices, ", "));
}

CLI::Validator one_of(std::vector<std::string> words) {
  const std::string description = fmt::format("{{{}}}", fmt::join(words, ","));
  return CLI::Validator(
      [words = std::move(words)](std::string& word) -> std::string {
        const std::vector<std::string_view> choices(words.begin(), words.end());
        if (std::find(choices.begin(), choices.end(), word) != choices.end()) return "";
        return unknown_word(word, choices);
      },
      description);
}

CLI::Validator at_least(int64_t lowest) {
  return number_check([lowest](double value) { return value >= static_cast<double>(lowest); },
                      fmt::format("{} or more", lowest));
}

CLI::Validator positive() {
  return number_check([](double value) { return value > 0 && std::isfinite(value); }, "more than 0");
}

void check_numbers(CLI::App& command) {
  for (CLI::Option* option : command.get_options()) {
    const std::string type = option->get_type_name();
    if (expected_for(type, "x").empty()) continue;
    option->transform(CLI::Validator(
        [type](std::string& value) -> std::string {
          const std::string_view expected = expected_for(type, value);
          return expected.empty() ? "" : fmt::format("{} is not {}", quote(value), expected);
        },
        ""));
  }
  for (CLI::App* each : command.get_subcommands({})) check_numbers(*each);
}

}  // namespace perceiver::program
