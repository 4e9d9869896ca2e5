// perceiver config: documents all keys, or prints the resolved configuration of a file, or that of a model.
#include <filesystem>

#include "base/check.h"
#include "config/load.h"
#include "config/save.h"
#include "data/shards/shard_summary.h"
#include "model/named_models.h"
#include "tools/commands.h"
#include "tools/describe.h"
#include "tools/output.h"

namespace perceiver::program {
namespace {

/// Whether the path is a run, a checkpoint or a model file rather than a configuration.
bool is_model(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored) || path.extension() == ".safetensors" ||
         (!std::filesystem::exists(path, ignored) && find_named_model(path.string()));
}

/// Text that is still to be tokenized becomes tokens as it did for the model.
void take_tokenizer(Config& config, const ModelMetadata& metadata, const std::string& file) {
  if (metadata.modality != "text" || metadata.tokenizer == "bytes" || config.data.train.empty()) return;
  for (const std::string& path : config.data.train)
    if (!std::filesystem::exists(path) || is_shard_folder(path)) return;
  config.data.options.emplace("tokenizer", std::filesystem::absolute(file).string());
}

/// What a run that starts from the model's weights would be configured with, as YAML to be read with
/// `overrides`.
std::string model_configuration(const std::string& path, const std::vector<std::string>& overrides) {
  const std::filesystem::path file = find_model_file(path);
  const ModelMetadata metadata = read_metadata(SafetensorsFile::open(file));
  Config config;
  if (!metadata.run.empty()) config = config_from_json(metadata.run, file.string());
  const Config here;  // the machine is another one
  config.device = here.device;
  config.threads = here.threads;
  config.model = metadata.model;
  if (metadata.run.empty()) {
    config.data.type = metadata.modality;
    config.model.zero_initial_logits = false;
  }
  config.train.initialize = std::filesystem::absolute(path_or_named(path)).string();
  config = parse_config(to_yaml(config), path, overrides);
  take_tokenizer(config, metadata, file.string());
  return to_yaml(config);
}

}  // namespace

void add_config(CLI::App& app, Globals&, Action& action) {
  struct Options {
    std::string file, section;
    bool explain = false;
    std::vector<std::string> set;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("config", "Print a resolved configuration, or explain its keys");
  command
      ->add_option("file", options->file,
                   "Configuration (YAML); or a run, checkpoint, model file or a model's name, for a "
                   "configuration that "
                   "starts from its weights; or with --explain a section or key")
      ->type_name(kModel);
  command->add_flag("--explain", options->explain, "Print every key with its default and meaning");
  command->add_option("--set", options->set, "Override a key: section.key=value")
      ->take_all()
      ->type_name(kKeyValue);
  command->footer(R"(Examples:
  perceiver config configs/quickstart.yaml --set train.steps=500
  perceiver config runs/book --set train.steps=500 > fine_tuning.yaml
  perceiver config --explain
  perceiver config --explain data.train)");
  command->callback([options, &action] {
    action = [options] {
      if (!options->explain && options->file.empty())
        throw_usage("name a configuration file, or use --explain");
      if (options->explain && !options->set.empty())
        throw_usage("--set changes a configuration and says nothing with --explain");
      const std::string text = options->explain          ? explain_config(options->file)
                               : is_model(options->file) ? model_configuration(options->file, options->set)
                                                         : to_yaml(load_config(options->file, options->set));
      print_now(text);
      return 0;
    };
  });
}

}  // namespace perceiver::program
