#include "tools/command_line.h"

#include <algorithm>

#include "base/check.h"
#include "base/edit_distance.h"
#include "base/text.h"

namespace perceiver::program {
namespace {

constexpr size_t kTypo = 3;  ///< anything as far from a known word is no typo of it

/// "; did you mean 'train'?", or "" if nothing is near.
std::string suggestion(const std::string& word, const std::vector<std::string>& known) {
  std::string best;
  size_t distance = kTypo;
  for (const std::string& each : known) {
    const size_t d = edit_distance(word, each, distance);
    if (d < distance) distance = d, best = each;
  }
  return best.empty() ? "" : fmt::format("; did you mean '{}'?", best);
}

std::vector<std::string> names_of(const std::vector<const CLI::App*>& commands) {
  std::vector<std::string> names;
  for (const CLI::App* command : commands) names.push_back(command->get_name());
  return names;
}

/// The options that may be given after a command: its own and its parents'.
std::vector<std::string> option_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::App* at = &command; at != nullptr; at = at->get_parent())
    for (const CLI::Option* option : at->get_options())
      for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

/// Whether the word is an option whose value is the next word.
bool takes_next(const CLI::App& command, const std::string& word) {
  for (const CLI::App* at = &command; at != nullptr; at = at->get_parent())
    if (const CLI::Option* option = at->get_option_no_throw(word))
      return option->get_items_expected_max() > 0;
  return false;
}

std::string without_newlines(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

std::string unexpected_words(const CLI::App& app) {
  std::vector<std::string> words = app.remaining(true);
  const auto option =
      std::find_if(words.begin(), words.end(), [](const std::string& word) { return word.starts_with("-"); });
  if (option == words.end()) return fmt::format("{} was not expected", quote(words.front()));
  const std::string name = option->substr(0, option->find('='));
  return fmt::format("unknown option {}{}", quote(name), suggestion(name, option_names(innermost(app))));
}

}  // namespace

std::string full_name(const CLI::App& command) {
  const CLI::App* parent = command.get_parent();
  return parent == nullptr ? command.get_name() : full_name(*parent) + " " + command.get_name();
}

const CLI::App& innermost(const CLI::App& app) {
  const std::vector<CLI::App*> parsed = app.get_subcommands();
  return parsed.empty() ? app : innermost(*parsed.back());
}

std::vector<const CLI::App*> subcommands(const CLI::App& command) {
  return command.get_subcommands([](const CLI::App*) { return true; });
}

const CLI::App& find_command(const CLI::App& app, const std::vector<std::string>& words) {
  const CLI::App* at = &app;
  for (size_t i = 0; i < words.size() && !subcommands(*at).empty(); ++i) {
    const std::string& word = words[i];
    if (word.starts_with("-")) {
      if (takes_next(*at, word)) ++i;
      continue;
    }
    const std::vector<const CLI::App*> known = subcommands(*at);
    const auto found = std::find_if(known.begin(), known.end(),
                                    [&](const CLI::App* each) { return each->get_name() == word; });
    if (found == known.end())
      throw_user("unknown command {}{}{}", quote(word), suggestion(word, names_of(known)), help_hint(*at));
    at = *found;
  }
  return *at;
}

std::string explain(const CLI::App& app, const CLI::ParseError& error) {
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr && !app.remaining(true).empty())
    return unexpected_words(app);
  const CLI::App& command = innermost(app);
  if (!subcommands(command).empty() && command.get_subcommands().empty() &&
      dynamic_cast<const CLI::RequiredError*>(&error) != nullptr)
    return fmt::format("no command given; the choices: {}", fmt::join(names_of(subcommands(command)), ", "));
  return without_newlines(error.what());
}

std::string help_hint(const CLI::App& command) {
  return fmt::format(" (see {} --help)", full_name(command));
}

}  // namespace perceiver::program
