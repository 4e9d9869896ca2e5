// Checks of option values whose messages name the value, what is allowed and, for words, the nearest.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace perceiver::program {

/// "'strem' is unknown; did you mean 'stream'? The choices: exact, refill, stream"
std::string unknown_word(std::string_view word, const std::vector<std::string_view>& choices);

/// Allows only these words.
CLI::Validator one_of(std::vector<std::string> words);

/// Allows the names of values, and turns them into those.
template <typename Value>
CLI::Validator one_of(const std::map<std::string, Value>& values) {
  std::vector<std::string> words;
  for (const auto& [name, value] : values) words.push_back(name);
  const CLI::Validator known = one_of(words);
  return CLI::Validator(
      [values, known](std::string& word) {
        std::string error = known(word);
        if (error.empty()) word = std::to_string(static_cast<int64_t>(values.at(word)));
        return error;
      },
      known.get_description());
}

/// Whole numbers of at least `lowest`.
CLI::Validator at_least(int64_t lowest);
/// Numbers above 0.
CLI::Validator positive();

/// Gives every numeric option of the command, and of its subcommands, a check that the value is such a
/// number: the parser's own message does not say what is wrong.
void check_numbers(CLI::App& command);

}  // namespace perceiver::program
