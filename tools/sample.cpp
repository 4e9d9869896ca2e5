// perceiver sample: text from a checkpoint, printed as it is generated.
#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "data/text/tokenizer.h"
#include "data/text/utf8_stream.h"
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
  std::vector<std::string> stop, logit_bias;
  GenerationRequest request;
  FileSampling files;
  BatchSampling batch;
  int64_t best_of = 1;
  bool json = false, bf16_weights = false;
};

/// One text that is to be shown: the likeliest of `best_of` continuations of a prompt.
struct Result {
  size_t prompt = 0;
  std::string text;
  int64_t tokens = 0;
  double log_probability = 0;
  Ending ending = Ending::tokens;
};

/// A continuation on its way: its bytes until a stop string.
struct Progress {
  StopStrings stop;
  std::string text;
};

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

std::string valid_utf8(const std::string& bytes) {
  Utf8Stream stream;
  return stream.put(bytes) + stream.flush();
}

/// A line of the prompts' file: in .jsonl a JSON string, or an object with "prompt"; else the line itself.
std::string prompt_of_line(const std::string& line, bool json, const std::string& source) {
  if (!json) return line;
  const nlohmann::json value = parse_json_document(line, source);
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("prompt") && value["prompt"].is_string())
    return value["prompt"].get<std::string>();
  throw_user("{}: a JSON string, or an object with a string 'prompt', is needed", source);
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
  if (prompts.empty()) throw_user("{}: no prompt in it; one a line is needed", options.prompts_file);
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
  throw_user("--logit-bias {}: ID=VALUE is needed, e.g. 13=-inf or 35=2.5", text);
}

/// The likeliest of each group of `best_of` continuations.
std::vector<Result> choose(const SampleCommand& options, const std::vector<Continuation>& all,
                           const std::vector<Progress>& progress) {
  std::vector<Result> results;
  for (size_t first = 0; first < all.size(); first += static_cast<size_t>(options.best_of)) {
    size_t best = first;
    for (size_t i = first; i < first + static_cast<size_t>(options.best_of); ++i)
      if (all[i].log_probability > all[best].log_probability) best = i;
    results.push_back({first / static_cast<size_t>(options.best_of * options.batch.count),
                       progress[best].text, static_cast<int64_t>(all[best].tokens.size()),
                       all[best].log_probability, all[best].ending});
  }
  return results;
}

const char* name_of(Ending ending, bool stopped) {
  switch (ending) {
    case Ending::tokens:
      return "tokens";
    case Ending::end_token:
      return "end";
    case Ending::context:
      return "context";
    case Ending::caller:
      break;
  }
  return stopped ? "stop" : "cancelled";
}

void print_json(const std::vector<std::string>& prompts, const std::vector<Result>& results) {
  nlohmann::ordered_json out = nlohmann::ordered_json::array();
  for (const Result& result : results)
    out.push_back({{"prompt", prompts[result.prompt]},
                   {"text", valid_utf8(result.text)},
                   {"tokens", result.tokens},
                   {"log_probability", result.log_probability},
                   {"ending", name_of(result.ending, true)}});
  std::printf("%s\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

/// Everything that is wrong with the request is told before the checkpoint is even opened, where possible.
void check(SampleCommand& options) {
  if (options.batch.count < 1) throw_user("--count {}: 1 or more are possible", options.batch.count);
  if (options.best_of < 1) throw_user("--best-of {}: 1 or more are possible", options.best_of);
  if (options.batch.at_once < 0)
    throw_user("--batch {}: 0 (up to 8) or more are possible", options.batch.at_once);
  check_sampling(options.request.sampling);
  if (options.request.tokens < 0) throw_user("--tokens {}: 0 or more are possible", options.request.tokens);
  (void)StopStrings(options.stop);
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
    for (int64_t i = 0; i < options.batch.count * options.best_of; ++i) {
      request.sequence = static_cast<uint32_t>(i);  // a prompt's text does not depend on the other prompts
      requests.push_back(request);
    }
  }
  return requests;
}

int sample_as_files(SampleCommand& options, const LoadedModel& loaded) {
  if (!options.prompt.empty())
    throw_user("--prompt is printed; to write --out, give the prompt as --prompt-file");
  if (!options.prompts_file.empty())
    throw_user("--prompts-file is of texts that are printed; leave it out with --out");
  if (options.json) throw_user("--json prints text; leave it out to write --out");
  if (options.best_of > 1) throw_user("--best-of is of texts that are printed; leave it out with --out");
  if (!options.stop.empty()) throw_user("--stop is of texts that are printed; leave it out with --out");
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
  Engine engine(*loaded.model, suited_options(options.batch.options_for(total), loaded.metadata.modality));

  // One text is shown as it grows; several when all are done.
  const bool live = !options.json && total == 1;
  std::vector<Progress> progress(requests.size(), {StopStrings(options.stop), {}});
  Utf8Stream characters;
  bool started = false;
  const auto begin = [&] {
    if (live && !started) print(characters.put(prompts[0]));
    started = true;
  };
  const auto all = generate(engine, requests, [&](int64_t request, const ChosenToken& token) {
    begin();
    Progress& own = progress[static_cast<size_t>(request)];
    const std::string text = own.stop.put(tokenizer->decode({&token.token, 1}));
    own.text += text;
    if (live) print(characters.put(text));
    return !own.stop.found();
  });
  begin();
  for (Progress& each : progress) {
    const std::string rest = each.stop.flush();
    each.text += rest;
    if (live) print(characters.put(rest));
  }
  if (live) {
    print(characters.flush() + "\n");
    return 0;
  }
  const std::vector<Result> results = choose(options, all, progress);
  if (options.json) {
    print_json(prompts, results);
    return 0;
  }
  for (size_t i = 0; i < results.size(); ++i) {
    const std::string head = results.size() > 1 ? "--- " + std::to_string(i + 1) + "\n" : "";
    print(head + valid_utf8(prompts[results[i].prompt] + results[i].text) + "\n");
  }
  return 0;
}

void add_sampling(CLI::App& command, SampleCommand& options) {
  SamplingOptions& sampling = options.request.sampling;
  command.add_option("--temperature", sampling.temperature, "0 = always the likeliest")
      ->capture_default_str();
  command.add_option("--top-k", sampling.top_k, "Only the k likeliest tokens (0 = off)")
      ->capture_default_str();
  command.add_option("--top-p", sampling.top_p, "Only the likeliest tokens that together reach p")
      ->capture_default_str();
  command.add_option("--min-p", sampling.min_p, "Only tokens at least p times as likely as the likeliest")
      ->capture_default_str();
  command
      .add_option("--repetition-penalty", sampling.repetition_penalty,
                  "Logits of tokens that occurred are divided by it (1 = off)")
      ->capture_default_str();
  command.add_option("--logit-bias", options.logit_bias, "ID=VALUE added to a token's logit; -inf: never")
      ->delimiter(',');
  command.add_option("--seed", sampling.seed, "Same seed, same text")->capture_default_str();
}

}  // namespace

void add_policy(CLI::App& command, EngineOptions& engine) {
  const std::map<std::string, GenerationPolicy> policies{{"auto", GenerationPolicy::automatic},
                                                         {"exact", GenerationPolicy::exact},
                                                         {"refill", GenerationPolicy::refill},
                                                         {"stream", GenerationPolicy::stream}};
  command
      .add_option(
          "--policy", engine.policy,
          "What happens once the latents are full: auto (refill where the model allows a cache), exact, "
          "refill or stream; see docs/generation.md")
      ->transform(CLI::CheckedTransformer(policies))
      ->default_str("auto");
  command.add_option("--latents", engine.latents, "Latents (0 = the model's)")->capture_default_str();
  command
      .add_option("--refill", engine.refill, "Latents that policy refill computes anew (0 = half of them)")
      ->capture_default_str();
  command
      .add_option("--prompt-latents", engine.prompt_latents, "Latents of the pass over the prompt (0 = all)")
      ->capture_default_str();
  const std::map<std::string, ContextEnd> ends{{"drop", ContextEnd::drop}, {"stop", ContextEnd::stop}};
  command
      .add_option("--at-context-end", engine.context_end,
                  "drop: forget the oldest tokens; stop: end the text")
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
      ->add_option(
          "--prompts-file", options->prompts_file,
          "File with many prompts, one a line; in .jsonl each a JSON string or an object with 'prompt'")
      ->excludes(prompt)
      ->excludes(file);
  auto* tokens =
      command->add_option("--tokens", options->request.tokens, "New tokens at most")->capture_default_str();
  add_file_sampling(*command, options->files);
  add_sampling(*command, *options);
  add_policy(*command, options->batch.engine);
  command->add_option("--stop", options->stop, "The text ends before this; may be given several times")
      ->take_all()
      ->expected(1);
  command->add_option("--stop-token", options->request.stop_tokens, "Token ids that end the text")
      ->delimiter(',');
  command->add_option("--count", options->batch.count, "Continuations of each prompt")->capture_default_str();
  command->add_option("--best-of", options->best_of, "Of so many continuations the likeliest")
      ->capture_default_str();
  command->add_option("--batch", options->batch.at_once, "Texts at once (0 = up to 8)")
      ->capture_default_str();
  command->add_flag("--ignore-eos", options->request.ignore_eos, "Never end before --tokens");
  command->add_flag("--bf16-weights", options->bf16_weights,
                    "CPU: weights rounded to bfloat16, half as many bytes for a token");
  command->add_flag("--json", options->json, "Print JSON with log-probabilities (nats)");
  command->callback([options, tokens, &globals, &action] {
    options->files.length_given = tokens->count() > 0;
    action = [options, &globals] { return run(*options, globals); };
  });
}

}  // namespace perceiver::program
