// The parser's own side of the command line: the subcommand that is meant, and what is wrong with the words.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace perceiver::program {

/// The name and those of the command's parents: "perceiver data build".
std::string full_name(const CLI::App& command);

/// The subcommand that was parsed last, e.g. that of `data build`; `app` itself if there is none.
const CLI::App& innermost(const CLI::App& app);

/// The subcommands in the order in which they were added.
std::vector<const CLI::App*> subcommands(const CLI::App& command);

/// Follows the words to a subcommand; options and their values are skipped, and what follows a command
/// without subcommands is not looked at. Throws `user` for a word that is no subcommand, naming the nearest.
const CLI::App& find_command(const CLI::App& app, const std::vector<std::string>& words);

/// What is wrong, for a parser's error that is the user's mistake.
std::string explain(const CLI::App& app, const CLI::ParseError& error);

/// " (see perceiver data build --help)"
std::string help_hint(const CLI::App& command);

}  // namespace perceiver::program
