// perceiver import: other implementations' models as model files.
#include <cmath>
#include <cstdio>

#include "base/check.h"
#include "base/plural.h"
#include "base/text.h"
#include "port/golden_rows.h"
#include "port/import.h"
#include "tools/commands.h"
#include "tools/describe.h"
#include "tools/next_steps.h"
#include "tools/validators.h"

namespace perceiver::program {
namespace {

struct ImportArguments {
  ImportOptions options;
  std::string path, out, compare;
};

void print_line(const char* label, const std::string& text) {
  std::printf("%-12s %s\n", label, text.c_str());
}

std::string describe_sizes(const ModelConfig& model) {
  return fmt::format("{} of {} channels, {}; context {}, {}", counted(model.layers, "layer"),
                     model.z_channels(), counted(model.self_heads, "head"), model.context_length,
                     counted(model.latents, "latent"));
}

std::string describe_ids(const VocabularyMap& vocabulary) {
  const int64_t ours = vocabulary.ours();
  if (!vocabulary.lacks_ids()) return fmt::format("{}, {} here", vocabulary.size, ours);
  std::string missing;
  const char* const names[] = {"PAD", "EOS", "SOS"};
  for (size_t id = 0; id < std::size(names); ++id)
    if (vocabulary.theirs[id] < 0) missing += (missing.empty() ? "" : ", ") + std::string(names[id]);
  return fmt::format("{}, {} here: it has no {}", vocabulary.size, ours, missing);
}

std::string tokenizer_name(const VocabularyMap& vocabulary) {
  if (vocabulary.modality == "text") return vocabulary.tokenizer.substr(0, vocabulary.tokenizer.find('\n'));
  return vocabulary.modality == "music" ? "388 events of piano music" : "none: ids are numbers";
}

void print_report(const ImportedModel& imported) {
  print_line("source", imported.source);
  if (!imported.configuration_from.empty())
    print_line("configured", "by " + printable(imported.configuration_from));
  print_line("model", describe_sizes(imported.metadata.model));
  print_line("ids", describe_ids(imported.vocabulary));
  print_line("tokenizer", tokenizer_name(imported.vocabulary));
  if (!imported.inferred.empty())
    print_line("inferred", fmt::format("{}", fmt::join(imported.inferred, ", ")));
  for (const std::string& lost : imported.lost) print_line("left out", lost);
  print_line("parameters", fmt::format("{}", imported.model->parameters().count()));
}

/// Runs the model on a batch of which the other implementation's results are known.
void compare(const ImportArguments& arguments, const Globals& globals) {
  const SafetensorsFile file = SafetensorsFile::open(arguments.compare);
  const ImportedModel exact =
      import_model(arguments.path, arguments.options, DeviceContext::cpu(globals.threads), DType::f64);
  const GoldenRows golden = read_golden_rows(file, exact);
  for (const int64_t row : golden.leaking)
    print_line("refused",
               fmt::format("row {}: padding among its latents, where {} lets later tokens leak into "
                           "earlier ones (docs/import.md)",
                           row, exact.dialect->project));
  const GoldenDifference difference = golden_difference(file, exact, golden);
  for (size_t i = 0; i < difference.logits.size(); ++i)
    print_line("compared",
               fmt::format("row {}: logits differ by at most {:.2e}", golden.rows[i], difference.logits[i]));
  if (!difference.logits.empty())
    print_line("", fmt::format("the largest logit is {:.3g}; computed in float64", difference.largest_logit));
  if (difference.has_loss)
    print_line("loss", fmt::format("{:.6f}, {:.6f} there: a difference of {:.1e}", difference.loss,
                                   difference.their_loss, std::abs(difference.loss - difference.their_loss)));
}

void print_next_steps(const std::string& out, const std::string& modality) {
  std::printf("\nNext:\n");
  for (const std::string& command : commands_for_model("perceiver", out, modality, false))
    std::printf("  %s\n", command.c_str());
  std::printf("  %s\n", shell_command({"perceiver", "eval", out, "--set", "data.validation=FILES"}).c_str());
  std::printf(
      "  perceiver config %s --set data.train=FILES > fine_tuning.yaml && perceiver train fine_tuning.yaml\n",
      shell_quote(out).c_str());
}

int import(const ImportArguments& arguments, const Globals& globals) {
  const ImportedModel imported =
      import_model(arguments.path, arguments.options, DeviceContext::cpu(globals.threads), DType::f32);
  save_model(arguments.out, *imported.model, imported.metadata);
  print_report(imported);
  print_line("written", arguments.out);
  if (!arguments.compare.empty()) compare(arguments, globals);
  print_next_steps(arguments.out, imported.metadata.modality);
  return 0;
}

void add_sizes(CLI::App& command, GivenSizes& given) {
  command.add_option("--heads", given.heads, "Heads of each attention, if the source does not say")
      ->check(at_least(1));
  command.add_option("--head-channels", given.head_channels, "Instead of --heads: channels of each")
      ->check(at_least(1));
  command.add_option("--context", given.context_length, "Context, tokens, if the source does not say")
      ->check(at_least(1));
  command.add_option("--latents", given.latents, "Latents, if the source does not say")->check(at_least(1));
  command
      .add_option("--prefix-length", given.prefix_length,
                  "Tokens before the latents (cross_attn_seq_len of lucidrains), if the source does not say")
      ->check(at_least(1));
  command
      .add_option("--rotary-layers", given.rotary_layers,
                  "Self-attention layers that rotate (krasserm), -1 for all, if the source does not say")
      ->check(at_least(-1));
}

}  // namespace

void add_import(CLI::App& app, Globals& globals, Action& action) {
  auto arguments = std::make_shared<ImportArguments>();
  CLI::App* command = app.add_subcommand("import", "Convert models of other implementations to model files");
  command
      ->add_option("file", arguments->path,
                   "Hugging Face folder, Lightning checkpoint, PyTorch state dict, pickled JAX arrays or "
                   "safetensors file")
      ->type_name(kPath)
      ->required();
  command->add_option("--out", arguments->out, "Model file to write")->type_name(kPath)->required();
  command
      ->add_option("--from", arguments->options.from,
                   "Source, recognised if left out: krasserm (perceiver-io), lucidrains "
                   "(perceiver-ar-pytorch), official (google-research/perceiver-ar) or transfo-xl (Hugging "
                   "Face's TransfoXLLMHeadModel)")
      ->check(one_of({"krasserm", "lucidrains", "official", "transfo-xl"}));
  command
      ->add_option("--config", arguments->options.configuration,
                   "JSON file with the source's configuration, if it has none")
      ->type_name(kPath);
  command
      ->add_option("--tokenizer", arguments->options.tokenizer,
                   "SentencePiece model whose pieces are the source's ids")
      ->type_name(kPath);
  add_sizes(*command, arguments->options.given);
  command
      ->add_option("--compare", arguments->compare,
                   "Safetensors file with what the source's own code computed (docs/import.md): prints the "
                   "differences")
      ->type_name(kPath);
  command->footer(R"(Examples:
  perceiver import hf_folder --out model.safetensors
  perceiver import last.ckpt --out model.safetensors
  perceiver import model.pt --heads 8 --prefix-length 3584 --out model.safetensors
What opens, and what is not carried over: docs/import.md.)");
  command->callback([arguments, &globals, &action] {
    action = [arguments, &globals] { return import(*arguments, globals); };
  });
}

}  // namespace perceiver::program
