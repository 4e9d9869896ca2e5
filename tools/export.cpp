// perceiver export: models as files that other implementations load.
#include <cstdio>

#include "port/export.h"
#include "tools/commands.h"
#include "tools/describe.h"
#include "tools/validators.h"

namespace perceiver::program {

void add_export(CLI::App& app, Globals& globals, Action& action) {
  struct Options {
    std::string checkpoint, to, out;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("export", "Convert a model to files that other implementations load");
  add_checkpoint(*command, options->checkpoint);
  command
      ->add_option(
          "--to", options->to,
          "krasserm (perceiver-io: a Hugging Face folder), lucidrains (perceiver-ar-pytorch: a folder), "
          "official (google-research/perceiver-ar: a safetensors file), transfo-xl (TransfoXLLMHeadModel: a "
          "Hugging Face folder) or safetensors (this library's names)")
      ->check(one_of({"krasserm", "lucidrains", "official", "transfo-xl", "safetensors"}))
      ->required();
  command->add_option("--out", options->out, "Folder or file to write")->type_name(kPath)->required();
  command->footer(R"(Examples:
  perceiver export runs/book --to krasserm --out book_hf
  perceiver export model.safetensors --to official --out official.safetensors
What each can express: docs/import.md.)");
  command->callback([options, &globals, &action] {
    action = [options, &globals] {
      Globals cpu = globals;
      cpu.device = "cpu";
      const LoadedModel model = open_checkpoint(options->checkpoint, cpu);
      const ExportReport report = export_model(model, options->to, options->out);
      for (const std::string& lost : report.lost) std::printf("left out     %s\n", lost.c_str());
      for (const auto& file : report.files) std::printf("written      %s\n", file.c_str());
      return 0;
    };
  });
}

}  // namespace perceiver::program
