// The command line described by its own parser: help, manual page, and completion for shells. Nothing here
// knows an option by name, so nothing can be out of date.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace perceiver::program {

/// Types of values that shells can complete: the `type_name` of such an option.
constexpr const char* kPath = "PATH";
constexpr const char* kModel = "MODEL";  ///< a path or the name of a model
constexpr const char* kKeyValue = "KEY=VALUE";

/// What `--help` of that command prints.
std::string help_text(const CLI::App& command);

/// A manual page of the program and all its commands (roff, man macros).
std::string man_page(const CLI::App& app);

std::string bash_completion(const CLI::App& app);
std::string zsh_completion(const CLI::App& app);
std::string fish_completion(const CLI::App& app);

/// What can follow a word of the command line.
struct OptionWords {
  std::vector<std::string> names;  ///< "-i", "--interactive"; empty for a positional argument
  std::string description;
  bool takes_value = false;
  bool takes_path = false;           ///< the value is a file or folder
  bool takes_model = false;          ///< the value may be the name of a model
  bool takes_key = false;            ///< the value is KEY=VALUE of a configuration
  std::vector<std::string> choices;  ///< all values, if they can be listed
};

/// The options of a command, without those of its parents.
std::vector<OptionWords> option_words(const CLI::App& command);

/// The command and all below it, parents first.
std::vector<const CLI::App*> all_commands(const CLI::App& app);

}  // namespace perceiver::program
