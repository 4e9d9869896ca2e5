// perceiver import: converts other projects' weights to model files.
#include <cstdio>

#include "base/check.h"
#include "base/plural.h"
#include "port/official.h"
#include "tools/commands.h"
#include "tools/describe.h"
#include "tools/validators.h"

namespace perceiver::program {

void add_import(CLI::App& app, Globals& globals, Action& action) {
  struct Options {
    std::string from = "official", file, out;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("import", "Convert weights of the authors' code to a model file");
  command
      ->add_option("--from", options->from, "Source: official (google-research/perceiver-ar as safetensors)")
      ->check(one_of({"official"}));
  command
      ->add_option("file", options->file,
                   "Safetensors file with tensors param/<module>/<name> and the metadata entry 'config'")
      ->type_name(kPath)
      ->required();
  command->add_option("--out", options->out, "Model file to write")->type_name(kPath)->required();
  command->footer(R"(Examples:
  perceiver import official.safetensors --out model.safetensors)");
  command->callback([options, &globals, &action] {
    action = [options, &globals] {
      const SafetensorsFile file = SafetensorsFile::open(options->file);
      const auto model = import_official(file, DeviceContext::cpu(globals.threads), DType::f32);
      ModelMetadata metadata;
      metadata.model = model->config();
      save_model(options->out, *model, metadata);
      std::printf("%s: %s\n", options->out.c_str(),
                  counted(model->parameters().count(), "parameter").c_str());
      return 0;
    };
  });
}

}  // namespace perceiver::program
