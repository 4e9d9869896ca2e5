// perceiver data: shards, tokenizers and inspection.
#include "tools/data.h"

#include <algorithm>
#include <cstdio>

#include "base/check.h"

namespace perceiver::program {

void take_modality_options(CLI::App& command, Globals& globals) {
  add_log_options(command, globals.log);
  command.allow_extras();
  command.fallthrough(false);
}

std::map<std::string, std::string> modality_options(const CLI::App& command) {
  std::map<std::string, std::string> options;
  const std::vector<std::string> words = command.remaining();
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (!word.starts_with("--"))
      throw_user("'{}' is not an option; give the modality's options as --name value", word);
    const size_t equals = word.find('=');
    std::string name = word.substr(2, equals == std::string::npos ? equals : equals - 2);
    std::replace(name.begin(), name.end(), '-', '_');
    if (equals == std::string::npos && i + 1 == words.size()) throw_user("{}: missing value", word);
    options[name] = equals == std::string::npos ? words[++i] : word.substr(equals + 1);
  }
  return options;
}

std::string counted(int64_t count, std::string_view singular) {
  return fmt::format("{} {}{}", count, singular, count == 1 ? "" : "s");
}

void add_data_modalities(CLI::App& data, Globals&, Action& action) {
  CLI::App* command = data.add_subcommand("modalities", "List modalities and their options");
  command->callback([&action] {
    action = [] {
      for (const ModalityKind* kind : modality_kinds()) {
        std::printf("%-8s %s\n", std::string(kind->name).c_str(), std::string(kind->doc).c_str());
        for (const ModalityOption& option : kind->options)
          std::printf("  %-20s %s Default: %s.%s\n", std::string(option.name).c_str(),
                      std::string(option.doc).c_str(),
                      option.default_value.empty() ? "none" : std::string(option.default_value).c_str(),
                      option.use == ModalityOption::Use::training ? " Only for training." : "");
      }
      return 0;
    };
  });
}

void add_data(CLI::App& app, Globals& globals, Action& action) {
  CLI::App* data = app.add_subcommand("data", "Build shards and tokenizers; inspect data");
  data->require_subcommand(1);
  for (const auto add :
       {add_data_build, add_data_info, add_data_modalities, add_data_roundtrip, add_data_tokenizer})
    add(*data, globals, action);
  data->footer(R"(Examples:
  perceiver data build --modality music --input midi/ --output shards/
  perceiver data info shards/
  perceiver help data build)");
}

}  // namespace perceiver::program
