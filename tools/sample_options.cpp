// perceiver sample: its options, and which of them go together.
#include <charconv>
#include <map>
#include <random>

#include <spdlog/spdlog.h>

#include "base/text.h"
#include "generate/stop_strings.h"
#include "tools/describe.h"
#include "tools/sample.h"
#include "tools/validators.h"

namespace perceiver::program {
namespace {

constexpr const char* kRandom = "random";

/// Options of which only one can be given, or where the first says nothing beside the second.
struct Conflict {
  const char *option, *other, *reason;
};
constexpr Conflict kConflicts[] = {
    {"--prompt-file", "--prompt", "give one prompt"},
    {"--prompts-file", "--prompt", "give the prompts one way"},
    {"--prompts-file", "--prompt-file", "give the prompts one way"},
    {"--jsonl", "--json", "choose one"},
    {"--json", "--out", "the file holds the sample alone"},
    {"--jsonl", "--out", "the file holds the sample alone"},
    {"--prompt-rows", "--prompt-seconds", "choose one"},
    {"--prompt-tokens", "--prompt-seconds", "choose one"},
    {"--prompt-tokens", "--prompt-rows", "choose one"},
    {"--prompt-known", "--prompt-seconds", "choose one"},
    {"--prompt-known", "--prompt-rows", "choose one"},
    {"--prompt-known", "--prompt-tokens", "choose one"},
    {"--prompt", "--interactive", "prompts are typed there"},
    {"--prompt-file", "--interactive", "prompts are typed there"},
    {"--prompts-file", "--interactive", "prompts are typed there"},
    {"--out", "--interactive", "answers are printed"},
    {"--json", "--interactive", "answers are printed as they grow"},
    {"--jsonl", "--interactive", "answers are printed as they grow"},
    {"--count", "--interactive", "there is one answer to a prompt"},
    {"--best-of", "--interactive", "answers are printed as they grow"},
    {"--batch", "--interactive", "there is one answer at a time"},
    {"--no-echo", "--interactive", "only answers are printed anyway"},
};

/// Options that only limit the prompt file.
constexpr const char* kOfPromptFile[] = {"--prompt-seconds", "--prompt-rows", "--prompt-tokens",
                                         "--prompt-known"};
/// Options that say nothing to a model of text, and to a model of anything else.
constexpr std::pair<const char*, const char*> kNotOfText[] = {
    {"--prompt-seconds", "audio and music"}, {"--prompt-rows", "images"}, {"--prompt-known", "images"}};
constexpr const char* kOfText[] = {"--prompt", "--prompts-file", "--stop",    "--best-of",
                                   "--json",   "--jsonl",        "--no-echo", "--interactive"};

bool parse_seed(const std::string& text, uint64_t& seed) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
  return error == std::errc() && end == text.data() + text.size();
}

std::string check_seed(const std::string& text) {
  uint64_t seed = 0;
  if (text == kRandom || parse_seed(text, seed)) return "";
  return fmt::format("{} given; must be a whole number from 0 to {}, or random", quote(text), UINT64_MAX);
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
  throw_usage("--logit-bias {}: expected ID=VALUE, e.g. 13=-inf or 35=2.5", text);
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
  command
      .add_option("--seed", options.seed,
                  "Random seed: the same seed gives the same text; random draws one and says which")
      ->check(check_seed)
      ->type_name("UINT|random")
      ->capture_default_str();
}

void check_combinations(const SampleCommand& options) {
  const auto given = [&](const char* option) { return options.given.contains(option); };
  for (const Conflict& each : kConflicts)
    if (given(each.option) && given(each.other))
      throw_usage("{} cannot be combined with {}: {}", each.option, each.other, each.reason);
  for (const char* option : kOfPromptFile)
    if (given(option) && !given("--prompt-file")) throw_usage("{} needs --prompt-file", option);
  const GenerationPolicy policy = options.batch.engine.policy;
  if (policy != GenerationPolicy::automatic) check_refill(options.batch.engine, options.batch.engine);
}

}  // namespace

bool makes_text(const std::string& modality) {
  return modality == "text" || modality == "copy";
}

void check_sample(SampleCommand& options) {
  check_combinations(options);
  check_sampling(options.request.sampling);
  check_stop_strings(options.request.stop);
  for (const std::string& bias : options.logit_bias) options.request.token_biases.push_back(parse_bias(bias));
}

void check_modality(const SampleCommand& options, const std::string& modality) {
  if (makes_text(modality)) {
    for (const auto& [option, kind] : kNotOfText)
      if (options.given.contains(option))
        throw_usage("{} is for {}; this is a model of {}", option, kind, modality);
    return;
  }
  for (const char* option : kOfText)
    if (options.given.contains(option))
      throw_usage("{} is for text; this is a model of {}", option, modality);
  if (options.prompt_file == "-")
    throw_usage("--prompt-file - is for text; this is a model of {}: name a file", modality);
}

void choose_seed(SampleCommand& options, World* world) {
  uint64_t& seed = options.request.sampling.seed;
  if (options.seed != kRandom) {
    (void)parse_seed(options.seed, seed);
    return;
  }
  seed = std::random_device()();
  if (world != nullptr) seed = std::stoull(world->from_leader(std::to_string(seed), "the seed"));
  spdlog::info("seed {}; repeat with --seed {}", seed, seed);
}

void add_policy(CLI::App& command, EngineOptions& engine) {
  const std::map<std::string, GenerationPolicy> policies{{"auto", GenerationPolicy::automatic},
                                                         {"exact", GenerationPolicy::exact},
                                                         {"refill", GenerationPolicy::refill},
                                                         {"stream", GenerationPolicy::stream}};
  command
      .add_option("--policy", engine.policy,
                  "What to do once the latents are full: auto (refill if the model allows a KV cache), "
                  "exact, refill or stream; see docs/generation.md")
      ->transform(one_of(policies))
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
      ->transform(one_of(ends))
      ->default_str("drop");
  add_kv_cache(command, engine.kv_cache);
}

void add_kv_cache(CLI::App& command, KvCache& type) {
  const std::map<std::string, KvCache> types{{"auto", KvCache::automatic},
                                             {"float32", KvCache::float32},
                                             {"bfloat16", KvCache::bfloat16},
                                             {"fp8", KvCache::fp8}};
  command
      .add_option(
          "--kv-cache", type,
          "Type of the cached keys and values: auto (that of the computation), float32, bfloat16 or fp8; "
          "bfloat16 on a CPU and fp8 on a GPU halve what a token reads of them")
      ->transform(one_of(types))
      ->default_str("auto");
}

void add_sample_options(CLI::App& command, SampleCommand& options) {
  add_checkpoint(command, options.checkpoint)->required();
  command.add_option("--prompt", options.prompt, "Text to continue (default: none)");
  command.add_option("--prompt-file", options.prompt_file, "File to continue; - reads text from stdin")
      ->type_name(kPath);
  command
      .add_option("--prompts-file", options.prompts_file,
                  "File of prompts, one a line; in .jsonl each a JSON string or an object with 'prompt'")
      ->type_name(kPath);
  command.add_flag("-i,--interactive", options.interactive,
                   "Ask for prompts and answer each: Ctrl-C ends an answer, Ctrl-D the program");
  command.add_option("--tokens", options.request.tokens, "Maximum number of new tokens")
      ->check(at_least(0))
      ->capture_default_str();
  add_file_sampling(command, options.files);
  add_sampling(command, options);
  add_policy(command, options.batch.engine);
  command
      .add_option(
          "--context-shards", options.context_shards,
          "Ranks that make each sample together, each with a part of its context, where it is too long for "
          "one: all ranks")
      ->check(at_least(1))
      ->capture_default_str();
  command.add_option("--stop", options.request.stop, "End the text before this string (repeatable)")
      ->take_all()
      ->expected(1);
  command.add_option("--stop-token", options.request.stop_tokens, "Token ids that end the text")
      ->delimiter(',');
  command.add_option("--count", options.batch.count, "Continuations per prompt")
      ->check(at_least(1))
      ->capture_default_str();
  command.add_option("--best-of", options.best_of, "Print the likeliest of this many continuations")
      ->check(at_least(1))
      ->capture_default_str();
  command.add_option("--batch", options.batch.at_once, "Texts generated at once (0 = up to 8)")
      ->check(at_least(0))
      ->capture_default_str();
  command.add_flag("--ignore-eos", options.request.ignore_eos, "Never generate the end token");
  add_weights(command, options.weights);
  command.add_flag("--no-echo", options.no_echo, "Print only what follows the prompt");
  command.add_flag("--json", options.json, "Print JSON with log-probabilities (nats) when all are done");
  command.add_flag("--jsonl", options.json_lines, "The same as JSON lines, each as soon as it is done");
}

}  // namespace perceiver::program
