// Completion for shells, from the parser: commands, options, choices, files, and keys for --set.
#include <algorithm>

#include "base/check.h"
#include "config/schema.h"
#include "tools/command_line.h"
#include "tools/describe.h"

namespace perceiver::program {
namespace {

/// The words that select a command: "" for the program itself, "data build".
std::string path_of(const CLI::App& command) {
  const std::string name = full_name(command);
  const size_t space = name.find(' ');
  return space == std::string::npos ? "" : name.substr(space + 1);
}

/// In single quotes for any of the shells.
std::string quoted(std::string text) {
  text = CLI::detail::find_and_replace(std::move(text), "'", "’");
  return "'" + CLI::detail::find_and_replace(std::move(text), "\\", "/") + "'";
}

/// The description up to what is only worth reading in --help.
std::string brief(const std::string& description) {
  return description.substr(0, description.find_first_of(";("));
}

std::string keys() {
  std::vector<std::string> all;
  for (const ConfigKey& key : config_keys()) all.emplace_back(key.path + "=");
  return fmt::format("{}", fmt::join(all, " "));
}

std::vector<std::string> command_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::App* each : subcommands(command)) names.push_back(each->get_name());
  return names;
}

/// What differs between bash and zsh, which both follow the words to a command and then look at the last.
struct Shell {
  const char* start;    ///< defines $command up to the word to complete, and $last, the word before that
  const char* words;    ///< offers {} as words
  const char* files;    ///< offers files
  const char* models;   ///< offers files and names of models
  const char* key;      ///< offers $keys, with no space after one
  const char* options;  ///< offers {} if the word starts with -, and returns then
  const char* end;
};

constexpr Shell kBash{
    .start = R"(# Completion of perceiver for bash. Made by: perceiver completion bash
_perceiver() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} last=${{COMP_WORDS[COMP_CWORD-1]}} command= word
  local keys='{keys}'
  COMPREPLY=()
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$command $word" in
{steps}    esac
  done
)",
    .words = "COMPREPLY=($(compgen -W '{}' -- \"$current\"))",
    .files = "compopt -o filenames; COMPREPLY=($(compgen -f -- \"$current\"))",
    .models =
        "compopt -o filenames; COMPREPLY=($(compgen -f -- \"$current\"; "
        "compgen -W \"$(perceiver models --names 2> /dev/null)\" -- \"$current\"))",
    .key = "compopt -o nospace; COMPREPLY=($(compgen -W \"$keys\" -- \"$current\"))",
    .options = "if [[ $current == -* ]]; then COMPREPLY=($(compgen -W '{}' -- \"$current\")); return; fi",
    .end = R"(}
complete -F _perceiver perceiver
)"};

constexpr Shell kZsh{.start = R"(#compdef perceiver
# Completion of perceiver for zsh. Made by: perceiver completion zsh
_perceiver() {{
  local last=${{words[CURRENT-1]}} command= word
  local -a keys
  keys=({keys})
  for word in "${{(@)words[2,CURRENT-1]}}"; do
    case "$command $word" in
{steps}    esac
  done
)",
                     .words = "compadd -- {}",
                     .files = "_files",
                     .models = "compadd -- $(perceiver models --names 2> /dev/null); _files",
                     .key = "compadd -S '' -- $keys",
                     .options = "if [[ ${{words[CURRENT]}} == -* ]]; then compadd -- {}; return; fi",
                     .end = R"(}
if [[ $funcstack[1] == _perceiver ]]; then _perceiver "$@"; else compdef _perceiver perceiver; fi
)"};

std::string joined(const std::vector<std::string>& words) {
  return fmt::format("{}", fmt::join(words, " "));
}

/// `    " data") command='data' ;;` for each command.
std::string steps(const CLI::App& app) {
  std::string out;
  for (const CLI::App* command : all_commands(app))
    if (command != &app)
      out += fmt::format("      \"{} {}\") command='{}' ;;\n", path_of(*command->get_parent()),
                         command->get_name(), path_of(*command));
  return out;
}

/// How to complete an option's value; a comment if it can be anything.
std::string value_action(const OptionWords& option, const Shell& shell) {
  if (!option.choices.empty()) return fmt::format(fmt::runtime(shell.words), joined(option.choices));
  if (option.takes_key) return shell.key;
  if (option.takes_model) return shell.models;
  return option.takes_path ? shell.files : ":";
}

/// The cases for the word after an option that takes a value.
std::string value_cases(const CLI::App& app, const Shell& shell) {
  std::string out;
  for (const CLI::App* command : all_commands(app))
    for (const OptionWords& option : option_words(*command))
      for (const std::string& name : option.names) {
        if (!option.takes_value) continue;
        const std::string path = command == &app ? "*" : "'" + path_of(*command) + "'";
        out += fmt::format("    {}' {}') {}; return ;;\n", path, name, value_action(option, shell));
      }
  return out;
}

/// The cases for any other word, by command.
std::string word_cases(const CLI::App& app, const Shell& shell) {
  std::string out;
  for (const CLI::App* command : all_commands(app)) {
    std::vector<std::string> names;
    std::string positional = ":";
    for (const CLI::App* at = command; at != nullptr; at = at->get_parent())
      for (const OptionWords& option : option_words(*at)) {
        for (const std::string& name : option.names)
          if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
        if (option.names.empty() && at == command) positional = value_action(option, shell);
      }
    if (!subcommands(*command).empty())
      positional = fmt::format(fmt::runtime(shell.words), joined(command_names(*command)));
    out += fmt::format("    '{}')\n      {}\n      {} ;;\n", path_of(*command),
                       fmt::format(fmt::runtime(shell.options), joined(names)), positional);
  }
  return out;
}

std::string script(const CLI::App& app, const Shell& shell) {
  return fmt::format(fmt::runtime(shell.start), fmt::arg("keys", keys()), fmt::arg("steps", steps(app))) +
         "  case \"$command $last\" in\n" + value_cases(app, shell) + "  esac\n  case \"$command\" in\n" +
         word_cases(app, shell) + "  esac\n" + shell.end;
}

/// fish's condition that a command has been named, and none below it.
std::string fish_condition(const CLI::App& command) {
  std::string condition;
  for (const CLI::App* at = &command; at->get_parent() != nullptr; at = at->get_parent())
    condition =
        "__fish_seen_subcommand_from " + at->get_name() + (condition.empty() ? "" : "; and ") + condition;
  if (subcommands(command).empty()) return condition;
  return condition + (condition.empty() ? "" : "; and ") + "not __fish_seen_subcommand_from " +
         joined(command_names(command));
}

std::string fish_option(const CLI::App& command, const OptionWords& option) {
  std::string line = "complete -c perceiver";
  if (command.get_parent() != nullptr) line += " -n '" + fish_condition(command) + "'";
  for (const std::string& name : option.names)
    line += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
  if (option.takes_value) line += option.takes_path ? " -r -F" : " -x";
  if (option.takes_model) line += " -a '(perceiver models --names 2> /dev/null)'";
  if (!option.choices.empty()) line += " -a " + quoted(joined(option.choices));
  if (option.takes_key) line += " -a " + quoted(keys());
  return line + " -d " + quoted(brief(option.description)) + "\n";
}

}  // namespace

std::string bash_completion(const CLI::App& app) {
  return script(app, kBash);
}

std::string zsh_completion(const CLI::App& app) {
  return script(app, kZsh);
}

std::string fish_completion(const CLI::App& app) {
  std::string out = "# Completion of perceiver for fish. Made by: perceiver completion fish\n";
  for (const CLI::App* command : all_commands(app)) {
    for (const CLI::App* each : subcommands(*command))
      out += fmt::format("complete -c perceiver -f -n '{}' -a {} -d {}\n", fish_condition(*command),
                         each->get_name(), quoted(brief(each->get_description())));
    for (const OptionWords& option : option_words(*command))
      if (!option.names.empty()) out += fish_option(*command, option);
  }
  return out;
}

}  // namespace perceiver::program
