#include "tools/describe.h"

#include <algorithm>

#include "tools/command_line.h"

namespace perceiver::program {
namespace {

/// "TEXT:{auto,cpu,cuda}" holds the choices as one_of describes them.
std::vector<std::string> choices_in(const std::string& type) {
  const size_t open = type.rfind('{'), close = type.rfind('}');
  if (open == std::string::npos || close == std::string::npos || close < open) return {};
  return CLI::detail::split(type.substr(open + 1, close - open - 1), ',');
}

OptionWords words_of(const CLI::Option& option) {
  OptionWords words;
  for (const std::string& name : option.get_snames()) words.names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) words.names.push_back("--" + name);
  words.description = option.get_description();
  words.takes_value = option.get_items_expected_max() > 0;
  const std::string type = option.get_type_name();
  words.takes_model = type.starts_with(kModel);
  words.takes_path = words.takes_model || type.starts_with(kPath) || type == "FILE" ||
                     type == "TEXT";  // any text may be a path
  words.takes_key = type.starts_with(kKeyValue);
  words.choices = choices_in(type);
  return words;
}

}  // namespace

std::string help_text(const CLI::App& command) {
  // Not App::help(): that is about the subcommand that was parsed, here `help` itself.
  return command.get_formatter()->make_help(&command, full_name(command), CLI::AppFormatMode::Normal);
}

std::vector<OptionWords> option_words(const CLI::App& command) {
  std::vector<OptionWords> words;
  for (const CLI::Option* option : command.get_options()) {
    words.push_back(words_of(*option));
    if (!option->get_positional() || words.back().names.empty()) continue;
    words.push_back(words.back());  // it can be given either way
    words.back().names.clear();
  }
  return words;
}

std::vector<const CLI::App*> all_commands(const CLI::App& app) {
  std::vector<const CLI::App*> commands{&app};
  for (const CLI::App* command : subcommands(app))
    for (const CLI::App* each : all_commands(*command)) commands.push_back(each);
  return commands;
}

}  // namespace perceiver::program
