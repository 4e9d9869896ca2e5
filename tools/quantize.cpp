// perceiver quantize: a model file with weights of fewer bits.
#include <cstdio>
#include <filesystem>
#include <map>

#include "tools/commands.h"
#include "tools/describe.h"
#include "tools/sample_defaults.h"
#include "tools/validators.h"

namespace perceiver::program {

void add_quantize(CLI::App& app, Globals& globals, Action& action) {
  struct Options {
    std::string checkpoint, out;
    Weights weights = Weights::int8;
    std::vector<std::string> sampling;
  };
  auto options = std::make_shared<Options>();
  const std::map<std::string, Weights> types{{"int8", Weights::int8}, {"fp8", Weights::fp8}};
  CLI::App* command =
      app.add_subcommand("quantize", "Round the weights of a model to eight bits, in a new file");
  add_checkpoint(*command, options->checkpoint)->required();
  command
      ->add_option("--weights", options->weights,
                   "int8 or fp8: what linear layers' weights become, with a float32 scale for each output")
      ->transform(one_of(types))
      ->required();
  command->add_option("--out", options->out, "Model file to write")->type_name(kPath)->required();
  command
      ->add_option(
          "--sampling", options->sampling,
          "Default of an option of perceiver sample for this model: tokens, temperature, top-k, top-p, "
          "min-p or repetition-penalty (repeatable)")
      ->take_all()
      ->type_name("NAME=NUMBER");
  command->footer(R"(Examples:
  perceiver quantize runs/book --weights fp8 --out book.safetensors
  perceiver quantize runs/book --weights int8 --out book.safetensors --sampling temperature=0.8 --sampling top-p=0.95
  perceiver eval book.safetensors
  perceiver sample book.safetensors --prompt "Once upon a time"
The file has a quarter of the size, and so much less memory on a GPU, though tokens take no less time there. On a
CPU tokens with int8 take a quarter of float32's memory traffic, with fp8 as much. What it costs in quality:
docs/generation.md.)");
  command->callback([options, &globals, &action] {
    action = [options, &globals] {
      Globals cpu = globals;
      cpu.device = "cpu";
      const std::string sampling = sampling_defaults(options->sampling);
      LoadedModel loaded = open_checkpoint(options->checkpoint, cpu, options->weights);
      if (!sampling.empty()) loaded.metadata.sampling = sampling;
      save_model(options->out, *loaded.model, loaded.metadata);
      std::printf("written      %s (%.1f MB)\n", options->out.c_str(),
                  static_cast<double>(std::filesystem::file_size(options->out)) / 1e6);
      return 0;
    };
  });
}

}  // namespace perceiver::program
