// perceiver config: documents all keys, or prints a file's resolved configuration.
#include "base/check.h"
#include "config/load.h"
#include "config/save.h"
#include "tools/commands.h"
#include "tools/describe.h"
#include "tools/output.h"

namespace perceiver::program {

void add_config(CLI::App& app, Globals&, Action& action) {
  struct Options {
    std::string file, section;
    bool explain = false;
    std::vector<std::string> set;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("config", "Print a resolved configuration, or explain its keys");
  command->add_option("file", options->file, "Configuration (YAML), or with --explain a section or key")
      ->type_name(kPath);
  command->add_flag("--explain", options->explain, "Print every key with its default and meaning");
  command->add_option("--set", options->set, "Override a key: section.key=value")
      ->take_all()
      ->type_name(kKeyValue);
  command->footer(R"(Examples:
  perceiver config configs/quickstart.yaml --set train.steps=500
  perceiver config --explain
  perceiver config --explain data.train)");
  command->callback([options, &action] {
    action = [options] {
      if (!options->explain && options->file.empty())
        throw_usage("name a configuration file, or use --explain");
      if (options->explain && !options->set.empty())
        throw_usage("--set changes a configuration and says nothing with --explain");
      const std::string text = options->explain ? explain_config(options->file)
                                                : to_yaml(load_config(options->file, options->set));
      print_now(text);
      return 0;
    };
  });
}

}  // namespace perceiver::program
