// perceiver sample: prints text as it is generated.
#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "data/text/tokenizer.h"
#include "generate/generate.h"
#include "generate/stop_strings.h"
#include "io/atomic_file.h"
#include "io/json_document.h"
#include "tools/commands.h"
#include "tools/sample_files.h"

namespace perceiver::program {
namespace {

constexpr uint64_t kLongestPrompt = uint64_t{64} << 20;

struct SampleCommand {
  std::string checkpoint, prompt, prompt_file, prompts_file;
  std::vector<std::string> logit_bias;
  GenerationRequest request;
  FileSampling files;
  BatchSampling batch;
  int64_t best_of = 1;
  bool json = false, bf16_weights = false;
};

/// A text to print: the likeliest of `best_of` continuations of a prompt.
struct Result {
  size_t prompt = 0;
  Completion completion;
};

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

/// A line of the prompts file: in .jsonl a JSON string or an object with "prompt"; else the line itself.
std::string prompt_of_line(const std::string& line, bool json, const std::string& source) {
  if (!json) return line;
  const nlohmann::json value = parse_json_document(line, source);
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("prompt") && value["prompt"].is_string())
    return value["prompt"].get<std::string>();
  throw_user("{}: expected a JSON string or an object with a string 'prompt'", source);
}

std::vector<std::string> read_prompts(const SampleCommand& options) {
  if (!options.prompt_file.empty()) return {read_file(options.prompt_file, kLongestPrompt)};
  if (options.prompts_file.empty()) return {options.prompt};
  std::vector<std::string> prompts;
  const std::string content = read_file(options.prompts_file, kLongestPrompt);
  for (size_t begin = 0, number = 1; begin < content.size(); ++number) {
    const size_t end = std::min(content.find('\n', begin), content.size());
    const std::string line = content.substr(begin, end - begin);
    if (!line.empty())
      prompts.push_back(prompt_of_line(line, options.prompts_file.ends_with(".jsonl"),
                                       options.prompts_file + ":" + std::to_string(number)));
    begin = end + 1;
  }
  if (prompts.empty()) throw_user("{}: contains no prompt; expected one a line", options.prompts_file);
  return prompts;
}

/// ID=VALUE, where VALUE is a number or -inf.
std::pair<int32_t, float> parse_bias(const std::string& text) {
  const size_t equals = text.find('=');
  try {
    size_t id_end = 0, value_end = 0;
    const std::string id = text.substr(0, equals),
                      value = equals == std::string::npos ? "" : text.substr(equals + 1);
    const std::pair<int32_t, float> bias{std::stoi(id, &id_end), std::stof(value, &value_end)};
    if (id_end == id.size() && value_end == value.size()) return bias;
  } catch (const std::exception&) {  // reported below
  }
  throw_user("--logit-bias {}: expected ID=VALUE, e.g. 13=-inf or 35=2.5", text);
}

/// The likeliest of each group of `best_of` continuations.
std::vector<Result> choose(const SampleCommand& options, const std::vector<Completion>& all) {
  const auto group = static_cast<size_t>(options.best_of);
  std::vector<Result> results;
  for (size_t first = 0; first < all.size(); first += group) {
    size_t best = first;
    for (size_t i = first; i < first + group; ++i)
      if (all[i].log_probability > all[best].log_probability) best = i;
    results.push_back({first / static_cast<size_t>(options.best_of * options.batch.count), all[best]});
  }
  return results;
}

void print_json(const std::vector<std::string>& prompts, const std::vector<Result>& results) {
  nlohmann::ordered_json out = nlohmann::ordered_json::array();
  for (const auto& [prompt, completion] : results)
    out.push_back({{"prompt", prompts[prompt]},
                   {"text", completion.text},
                   {"tokens", completion.tokens.size()},
                   {"log_probability", completion.log_probability},
                   {"ending", name_of(completion.finish_reason.value())}});
  std::printf("%s\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

/// Reports mistakes in the request before the checkpoint is opened, where possible.
void check(SampleCommand& options) {
  if (options.batch.count < 1) throw_user("--count {}: must be at least 1", options.batch.count);
  if (options.best_of < 1) throw_user("--best-of {}: must be at least 1", options.best_of);
  if (options.batch.at_once < 0) throw_user("--batch {}: must be 0 (up to 8) or more", options.batch.at_once);
  check_sampling(options.request.sampling);
  if (options.request.tokens < 0) throw_user("--tokens {}: must be 0 or more", options.request.tokens);
  check_stop_strings(options.request.stop);
  for (const std::string& bias : options.logit_bias) options.request.token_biases.push_back(parse_bias(bias));
}

std::vector<GenerationRequest> requests_of(const SampleCommand& options,
                                           const std::vector<std::string>& prompts,
                                           const Tokenizer& tokenizer) {
  std::vector<GenerationRequest> requests;
  for (const std::string& prompt : prompts) {
    GenerationRequest request = options.request;
    request.prompt = tokenizer.encode(prompt);
    request.prompt.insert(request.prompt.begin(), sos_token);
    if (!options.json) request.echo = prompt;
    for (int64_t i = 0; i < options.batch.count * options.best_of; ++i) {
      request.sequence = static_cast<uint32_t>(i);  // a prompt's text does not depend on the other prompts
      requests.push_back(request);
    }
  }
  return requests;
}

int sample_as_files(SampleCommand& options, const LoadedModel& loaded) {
  if (!options.prompt.empty()) throw_user("--out cannot be combined with --prompt; use --prompt-file");
  if (!options.prompts_file.empty()) throw_user("--out cannot be combined with --prompts-file");
  if (options.json) throw_user("--out cannot be combined with --json");
  if (options.best_of > 1) throw_user("--out cannot be combined with --best-of");
  if (!options.request.stop.empty()) throw_user("--out cannot be combined with --stop");
  options.files.prompt_file = options.prompt_file;
  return sample_to_files(loaded, options.files, options.request, options.batch);
}

int run(SampleCommand& options, const Globals& globals) {
  check(options);
  const LoadedModel loaded = open_checkpoint(options.checkpoint, globals, options.bf16_weights);
  if (wants_files(options.files, loaded.metadata)) return sample_as_files(options, loaded);
  const std::vector<std::string> prompts = read_prompts(options);
  const auto tokenizer = make_tokenizer(loaded.metadata.tokenizer);
  const std::vector<GenerationRequest> requests = requests_of(options, prompts, *tokenizer);
  const auto total = static_cast<int64_t>(requests.size());
  Engine engine(*loaded.model, suited_options(options.batch.options_for(total), loaded.metadata));

  // A single text is printed as it grows; several, when all are done.
  const bool live = !options.json && total == 1;
  size_t printed = 0;
  const auto print_live = [&](int64_t, const ChosenToken&, const std::string& text) {
    if (live) print(text);
    printed += text.size();
    return true;
  };
  const std::vector<Completion> all = generate(engine, requests, print_live, tokenizer.get());
  if (live) {
    print(all[0].text.substr(printed) + "\n");
    return 0;
  }
  const std::vector<Result> results = choose(options, all);
  if (options.json) {
    print_json(prompts, results);
    return 0;
  }
  for (size_t i = 0; i < results.size(); ++i) {
    const std::string head = results.size() > 1 ? "--- " + std::to_string(i + 1) + "\n" : "";
    print(head + results[i].completion.text + "\n");
  }
  return 0;
}

void add_sampling(CLI::App& command, SampleCommand& options) {
  SamplingOptions& sampling = options.request.sampling;
  command.add_option("--temperature", sampling.temperature, "Sampling temperature (0 = greedy)")
      ->capture_default_str();
  command.add_option("--top-k", sampling.top_k, "Sample from the k likeliest tokens (0 = off)")
      ->capture_default_str();
  command
      .add_option("--top-p", sampling.top_p,
                  "Sample from the likeliest tokens that together reach probability p")
      ->capture_default_str();
  command
      .add_option("--min-p", sampling.min_p, "Sample from tokens at least p times as likely as the likeliest")
      ->capture_default_str();
  command
      .add_option("--repetition-penalty", sampling.repetition_penalty,
                  "Divide the logits of tokens that already occurred by this (1 = off)")
      ->capture_default_str();
  command
      .add_option("--logit-bias", options.logit_bias,
                  "Add VALUE to the logit of token ID, as ID=VALUE (-inf: never)")
      ->delimiter(',');
  command.add_option("--seed", sampling.seed, "Random seed: the same seed gives the same text")
      ->capture_default_str();
}

}  // namespace

void add_policy(CLI::App& command, EngineOptions& engine) {
  const std::map<std::string, GenerationPolicy> policies{{"auto", GenerationPolicy::automatic},
                                                         {"exact", GenerationPolicy::exact},
                                                         {"refill", GenerationPolicy::refill},
                                                         {"stream", GenerationPolicy::stream}};
  command
      .add_option("--policy", engine.policy,
                  "What to do once the latents are full: auto (refill if the model allows a KV cache), "
                  "exact, refill or "
                  "stream; see docs/generation.md")
      ->transform(CLI::CheckedTransformer(policies))
      ->default_str("auto");
  command.add_option("--latents", engine.latents, "Latents (0 = the model's)")->capture_default_str();
  command.add_option("--refill", engine.refill, "Latents that policy refill recomputes (0 = half)")
      ->capture_default_str();
  command.add_option("--prompt-latents", engine.prompt_latents, "Latents of the prefill (0 = all)")
      ->capture_default_str();
  const std::map<std::string, ContextEnd> ends{{"drop", ContextEnd::drop}, {"stop", ContextEnd::stop}};
  command
      .add_option("--at-context-end", engine.context_end,
                  "What to do once the context is full: drop the oldest tokens, or stop")
      ->transform(CLI::CheckedTransformer(ends))
      ->default_str("drop");
}

void add_sample(CLI::App& app, Globals& globals, Action& action) {
  auto options = std::make_shared<SampleCommand>();
  CLI::App* command = app.add_subcommand("sample", "Continue prompts");
  command->add_option("--checkpoint", options->checkpoint, "Run folder, checkpoint folder or model file")
      ->required();
  auto* prompt = command->add_option("--prompt", options->prompt, "Text to continue (default: none)");
  auto* file =
      command->add_option("--prompt-file", options->prompt_file, "File to continue")->excludes(prompt);
  command
      ->add_option("--prompts-file", options->prompts_file,
                   "File of prompts, one a line; in .jsonl each a JSON string or an object with 'prompt'")
      ->excludes(prompt)
      ->excludes(file);
  auto* tokens = command->add_option("--tokens", options->request.tokens, "Maximum number of new tokens")
                     ->capture_default_str();
  add_file_sampling(*command, options->files);
  add_sampling(*command, *options);
  add_policy(*command, options->batch.engine);
  command->add_option("--stop", options->request.stop, "End the text before this string (repeatable)")
      ->take_all()
      ->expected(1);
  command->add_option("--stop-token", options->request.stop_tokens, "Token ids that end the text")
      ->delimiter(',');
  command->add_option("--count", options->batch.count, "Continuations per prompt")->capture_default_str();
  command->add_option("--best-of", options->best_of, "Print the likeliest of this many continuations")
      ->capture_default_str();
  command->add_option("--batch", options->batch.at_once, "Texts generated at once (0 = up to 8)")
      ->capture_default_str();
  command->add_flag("--ignore-eos", options->request.ignore_eos, "Never generate the end token");
  command->add_flag("--bf16-weights", options->bf16_weights,
                    "CPU: round weights to bfloat16, halving the bytes read per token");
  command->add_flag("--json", options->json, "Print JSON with log-probabilities (nats)");
  command->callback([options, tokens, &globals, &action] {
    options->files.length_given = tokens->count() > 0;
    action = [options, &globals] { return run(*options, globals); };
  });
}

}  // namespace perceiver::program
