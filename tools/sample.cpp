// perceiver sample: text from a checkpoint, printed as it is generated.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "data/tokenizer.h"
#include "data/utf8_stream.h"
#include "generate/exact_generator.h"
#include "io/atomic_file.h"
#include "tools/commands.h"
#include "tools/sample_files.h"

namespace perceiver::program {
namespace {

constexpr uint64_t kLongestPrompt = uint64_t{64} << 20;

struct Options {
  std::string checkpoint, prompt, prompt_file;
  GenerationRequest request;
  FileSampling files;
  bool json = false;
};

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

void print_json(const Tokenizer& tokenizer, const std::string& prompt,
                const std::vector<std::vector<int32_t>>& results,
                const std::vector<double>& log_probabilities) {
  nlohmann::ordered_json out = nlohmann::ordered_json::array();
  for (size_t i = 0; i < results.size(); ++i) {
    Utf8Stream valid;
    const std::string text = valid.put(tokenizer.decode(results[i])) + valid.flush();
    out.push_back({{"prompt", prompt},
                   {"text", text},
                   {"tokens", results[i].size()},
                   {"log_probability", log_probabilities[i]}});
  }
  std::printf("%s\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

int sample_as_files(Options& options, const LoadedModel& loaded) {
  if (!options.prompt.empty()) throw_user("--prompt is printed; to write --out, give the prompt as --prompt-file");
  if (options.json) throw_user("--json prints text; leave it out to write --out");
  options.files.prompt_file = options.prompt_file;
  return sample_to_files(loaded, options.files, options.request);
}

int run(Options& options, const Globals& globals) {
  const LoadedModel loaded = open_checkpoint(options.checkpoint, globals);
  if (wants_files(options.files, loaded.metadata)) return sample_as_files(options, loaded);
  const auto tokenizer = make_tokenizer(loaded.metadata.tokenizer);
  if (!options.prompt_file.empty()) options.prompt = read_file(options.prompt_file, kLongestPrompt);
  options.request.prompt = {sos_token};
  const std::vector<int32_t> ids = tokenizer->encode(options.prompt);
  options.request.prompt.insert(options.request.prompt.end(), ids.begin(), ids.end());

  // One continuation is shown as it grows; of several, the first, and the others when all are done.
  const bool live = !options.json;
  const bool headed = options.request.count > 1;
  std::vector<double> log_probabilities(static_cast<size_t>(std::max<int64_t>(options.request.count, 0)),
                                        0.0);
  Utf8Stream characters;
  bool started = false;
  const auto begin = [&] {
    if (live && !started) print((headed ? "--- 1\n" : "") + characters.put(options.prompt));
    started = true;
  };
  const auto results =
      generate_exactly(*loaded.model, options.request, [&](int64_t sequence, const SampledToken& token) {
        begin();
        log_probabilities[static_cast<size_t>(sequence)] += token.log_probability;
        if (live && sequence == 0) print(characters.put(tokenizer->decode({&token.token, 1})));
        return true;
      });
  begin();
  if (options.json) {
    print_json(*tokenizer, options.prompt, results, log_probabilities);
    return 0;
  }
  print(characters.flush() + "\n");
  for (size_t i = 1; i < results.size(); ++i) {
    Utf8Stream whole;
    const std::string text = whole.put(options.prompt + tokenizer->decode(results[i]));
    print("--- " + std::to_string(i + 1) + "\n" + text + whole.flush() + "\n");
  }
  return 0;
}

}  // namespace

void add_sample(CLI::App& app, Globals& globals, Action& action) {
  auto options = std::make_shared<Options>();
  SamplingOptions& sampling = options->request.sampling;
  CLI::App* command = app.add_subcommand("sample", "Continue a prompt");
  command->add_option("--checkpoint", options->checkpoint, "Run folder, checkpoint folder or model file")
      ->required();
  auto* prompt = command->add_option("--prompt", options->prompt, "Text to continue (default: none)");
  command->add_option("--prompt-file", options->prompt_file, "File to continue")
      ->excludes(prompt);
  auto* tokens =
      command->add_option("--tokens", options->request.tokens, "New tokens at most")->capture_default_str();
  add_file_sampling(*command, options->files);
  command->add_option("--temperature", sampling.temperature, "0 = always the likeliest")
      ->capture_default_str();
  command->add_option("--top-k", sampling.top_k, "Only the k likeliest tokens (0 = off)")
      ->capture_default_str();
  command->add_option("--top-p", sampling.top_p, "Only the likeliest tokens that together reach p")
      ->capture_default_str();
  command->add_option("--min-p", sampling.min_p, "Only tokens at least p times as likely as the likeliest")
      ->capture_default_str();
  command->add_option("--seed", sampling.seed, "Same seed, same text")->capture_default_str();
  command->add_option("--count", options->request.count, "Continuations")->capture_default_str();
  command->add_flag("--ignore-eos", options->request.ignore_eos, "Never end before --tokens");
  command->add_flag("--json", options->json, "Print JSON with log-probabilities (nats)");
  command->callback([options, tokens, &globals, &action] {
    options->files.length_given = tokens->count() > 0;
    action = [options, &globals] { return run(*options, globals); };
  });
}

}  // namespace perceiver::program
