// perceiver eval: likelihood of a split.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/plural.h"
#include "base/text.h"
#include "eval/evaluator.h"
#include "eval/policy_evaluator.h"
#include "generate/generate.h"
#include "io/checksum.h"
#include "tools/commands.h"
#include "tools/describe.h"
#include "tools/ranks.h"
#include "tools/shared_model.h"
#include "tools/validators.h"

namespace perceiver::program {
namespace {

struct EvalCommand {
  std::string checkpoint, split = "validation";
  std::vector<std::string> set;
  std::vector<int64_t> latents;
  EvaluationOptions evaluation{.batch = 8};
  std::string policies;
  int64_t refill = 0, max_tokens = 0, context_shards = 1;
  KvCache kv_cache = KvCache::automatic;
  Weights weights = Weights::automatic;
  bool json = false;
};

Split split_of(const std::string& name) {
  for (const Split split : {Split::train, Split::validation})
    if (name == split_name(split)) return split;
  return Split::test;
}

/// The model is the checkpoint's, and how it is scored is said by options: only the data can be another.
void check_overrides(const std::vector<std::string>& overrides) {
  for (const std::string& each : overrides)
    if (!each.starts_with("data."))
      throw_usage("--set {} has no effect here: only data.* can be set, e.g. data.validation=other.txt",
                  each);
}

nlohmann::ordered_json as_json(const EvaluationResult& r) {
  nlohmann::ordered_json out{{"documents", r.documents},
                             {"tokens", r.tokens},
                             {r.unit + "s", r.units},
                             {"latents", r.latents},
                             {"stride", r.stride},
                             {"nats_per_token", r.nats_per_token()},
                             {"bits_per_token", r.bits_per_token()},
                             {"nats_per_" + r.unit, r.nats_per_unit()},
                             {"bits_per_" + r.unit, r.bits_per_unit()},
                             {"perplexity", r.perplexity()},
                             {"accuracy", r.accuracy()},
                             {"tokens_per_second", r.tokens_per_second()}};
  if (r.words > 0) {
    out["words"] = r.words;
    out["word_perplexity"] = r.word_perplexity();
  }
  for (size_t i = 0; i < r.buckets.size(); ++i)
    if (r.buckets[i].tokens > 0)
      out["nats_by_position"][position_bucket_name(static_cast<int64_t>(i))] = {
          {"tokens", r.buckets[i].tokens},
          {"nats_per_token", r.buckets[i].nats / static_cast<double>(r.buckets[i].tokens)}};
  return out;
}

void print_text(const EvaluationResult& r) {
  fmt::print("{}, {}, {}; {}, stride {}\n", counted(r.documents, "document"), counted(r.tokens, "token"),
             counted(r.units, r.unit), counted(r.latents, "latent"), r.stride);
  std::printf("  nats per token   %8.4f    nats per %-6s %8.4f\n", r.nats_per_token(), r.unit.c_str(),
              r.nats_per_unit());
  std::printf("  bits per token   %8.4f    bits per %-6s %8.4f\n", r.bits_per_token(), r.unit.c_str(),
              r.bits_per_unit());
  std::printf("  perplexity       %8.4f    accuracy        %8.4f\n", r.perplexity(), r.accuracy());
  if (r.words > 0)
    std::printf("  word perplexity  %8.2f    (%s)\n", r.word_perplexity(), counted(r.words, "word").c_str());
  std::printf("  tokens per second %.0f\n  nats per token by position in the document:\n",
              r.tokens_per_second());
  for (size_t i = 0; i < r.buckets.size(); ++i)
    if (r.buckets[i].tokens > 0)
      std::printf("    %-16s %8.4f  (%s)\n", position_bucket_name(static_cast<int64_t>(i)).c_str(),
                  r.buckets[i].nats / static_cast<double>(r.buckets[i].tokens),
                  counted(r.buckets[i].tokens, "token").c_str());
}

void print_table(const std::vector<EvaluationResult>& results) {
  std::printf("%8s %8s %14s %14s %9s %12s\n", "latents", "stride", "nats/token",
              ("bits/" + results[0].unit).c_str(), "accuracy", "tokens/s");
  for (const EvaluationResult& r : results)
    std::printf("%8lld %8lld %14.4f %14.4f %9.4f %12.0f\n", static_cast<long long>(r.latents),
                static_cast<long long>(r.stride), r.nats_per_token(), r.bits_per_unit(), r.accuracy(),
                r.tokens_per_second());
}

/// Ids of another tokenizer would be scored as if they meant the same.
void check_tokenizer(const Dataset& data, const ModelMetadata& metadata) {
  if (data.modality() != metadata.modality || data.tokenizer() == metadata.tokenizer) return;
  throw_user(
      "the data's tokenizer or its options differ from those the model was trained with ({}); use data made "
      "with the same",
      quote(metadata.tokenizer.substr(0, 200)));
}

/// Parts of different data would add up to nothing.
void check_same(World* world, const Dataset& data) {
  if (world == nullptr) return;
  world->require_same(hexadecimal(data.fingerprint()), "the data (a hash)");
}

constexpr std::pair<const char*, GenerationPolicy> kPolicies[] = {{"exact", GenerationPolicy::exact},
                                                                  {"refill", GenerationPolicy::refill},
                                                                  {"stream", GenerationPolicy::stream}};

std::vector<GenerationPolicy> policies_of(const std::string& list) {
  std::vector<GenerationPolicy> policies;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    const std::string name = list.substr(begin, end - begin);
    const auto found = std::find_if(std::begin(kPolicies), std::end(kPolicies),
                                    [&](const auto& each) { return each.first == name; });
    if (found == std::end(kPolicies))
      throw_usage("--policy: {}", unknown_word(name, {"exact", "refill", "stream"}));
    policies.push_back(found->second);
    begin = end + 1;
  }
  return policies;
}

void check_policies(const EvalCommand& options) {
  const std::vector<GenerationPolicy> policies = policies_of(options.policies);
  if (options.refill != 0 && std::count(policies.begin(), policies.end(), GenerationPolicy::refill) == 0)
    throw_usage("--refill {} needs --policy refill", options.refill);
  if (options.evaluation.stride != 0)
    throw_usage("--policy scores token by token and cannot be combined with --stride");
  if (options.evaluation.memory_length != 0)
    throw_usage(
        "--policy scores as generation would, with the model's memory, and cannot be combined with --memory");
}

const char* name_of(GenerationPolicy policy) {
  for (const auto& [name, value] : kPolicies)
    if (value == policy) return name;
  return "auto";
}

/// Shows what rank 0 has scored of its share.
std::function<void(int64_t, int64_t)> shown_progress(World* world) {
  if (world != nullptr && !world->leads()) return {};
  return show_token_count;
}

/// Scores as generation would, with each policy.
int run_policies(const EvalCommand& options, const LoadedModel& loaded, const Dataset& data, Split split,
                 World* world) {
  const bool leads = world == nullptr || world->leads();
  nlohmann::ordered_json out = nlohmann::ordered_json::array();
  const auto lengths = options.latents.empty() ? std::vector<int64_t>{0} : options.latents;
  if (leads && !options.json)
    std::printf("%8s %8s %8s %14s %14s %9s %12s\n", "policy", "latents", "refill", "nats/token",
                ("bits/" + data.unit()).c_str(), "accuracy", "tokens/s");
  for (const int64_t latents : lengths) {
    for (const GenerationPolicy policy : policies_of(options.policies)) {
      EngineOptions engine_options;
      engine_options.slots = options.evaluation.batch;
      engine_options.policy = policy;
      engine_options.latents = latents;
      engine_options.refill = options.refill;
      engine_options.kv_cache = options.kv_cache;
      Engine engine(*loaded.model, suited_options(engine_options, loaded.metadata));
      const EvaluationResult r =
          evaluate_policy(engine, data, split, {options.evaluation.max_documents, options.max_tokens, world},
                          shown_progress(world));
      nlohmann::ordered_json row{{"policy", name_of(policy)}, {"refill", engine.options().refill}};
      row.update(as_json(r));
      out.push_back(row);
      if (options.json || !leads) continue;
      std::printf("%8s %8lld %8lld %14.4f %14.4f %9.4f %12.0f\n", name_of(policy),
                  static_cast<long long>(r.latents), static_cast<long long>(engine.options().refill),
                  r.nats_per_token(), r.bits_per_unit(), r.accuracy(), r.tokens_per_second());
    }
  }
  if (options.json && leads) std::printf("%s\n", out.dump(2).c_str());
  return 0;
}

void print(const std::vector<EvaluationResult>& results, bool json) {
  if (json) {
    nlohmann::ordered_json out = nlohmann::ordered_json::array();
    for (const EvaluationResult& result : results) out.push_back(as_json(result));
    std::printf("%s\n", (results.size() == 1 ? out[0] : out).dump(2).c_str());
  } else if (results.size() == 1) {
    print_text(results[0]);
  } else {
    print_table(results);
  }
}

int run(const EvalCommand& options, const Globals& globals) {
  check_overrides(options.set);
  const bool cached = options.refill != 0 || options.kv_cache != KvCache::automatic;
  if (options.policies.empty() && (cached || options.max_tokens != 0))
    throw_usage("--refill, --kv-cache and --max-tokens need --policy");
  if (!options.policies.empty()) check_policies(options);
  if (!options.policies.empty() && options.context_shards > 1)
    throw_usage("--policy and --context-shards cannot be combined");
  const Split split = split_of(options.split);
  const std::shared_ptr<World> world = open_world(globals);
  const LoadedModel loaded =
      open_shared_checkpoint(options.checkpoint, globals, world.get(), options.weights);
  const auto data = open_dataset(run_config(loaded.metadata, options.set).data);
  check_tokenizer(*data, loaded.metadata);
  check_same(world.get(), *data);
  if (!options.policies.empty()) return run_policies(options, loaded, *data, split, world.get());
  const auto group = context_group(options.context_shards, world.get(), loaded.model->context());
  std::vector<EvaluationResult> results;
  for (const int64_t latents : options.latents.empty() ? std::vector<int64_t>{0} : options.latents) {
    EvaluationOptions evaluation = options.evaluation;
    evaluation.latents = latents;
    evaluation.world = world.get();
    evaluation.context_group = group.get();
    results.push_back(evaluate(*loaded.model, *data, split, evaluation, shown_progress(world.get())));
  }
  if (world == nullptr || world->leads()) print(results, options.json);
  return 0;
}

}  // namespace

void add_eval(CLI::App& app, Globals& globals, Action& action) {
  auto options = std::make_shared<EvalCommand>();
  CLI::App* command =
      app.add_subcommand("eval", "Report likelihood and accuracy on a split, scoring each token once");
  add_checkpoint(*command, options->checkpoint)->required();
  command->add_option("--split", options->split, "Split to score")
      ->check(one_of({"train", "validation", "test"}))
      ->capture_default_str();
  command
      ->add_option("--stride", options->evaluation.stride,
                   "Targets per window (default: latents; 1 = exact sliding window)")
      ->check(at_least(0));
  command
      ->add_option(
          "--latents", options->latents,
          "Latents, for a Transformer-XL the length of a segment, or a list such as 64,128,256 for a "
          "table (default: the model's)")
      ->delimiter(',')
      ->check(at_least(1));
  command
      ->add_option("--memory", options->evaluation.memory_length,
                   "Memory of a Transformer-XL, tokens (0 = the model's)")
      ->check(at_least(0));
  command
      ->add_option("--max-documents", options->evaluation.max_documents,
                   "Score only this many documents (0 = all)")
      ->check(at_least(0));
  command->add_option("--batch", options->evaluation.batch, "Windows per batch")
      ->check(at_least(1))
      ->capture_default_str();
  add_weights(*command, options->weights);
  command->add_option("--set", options->set, "Override the run's data.* keys, e.g. data.validation=other.txt")
      ->take_all()
      ->type_name(kKeyValue);
  command->add_option(
      "--policy", options->policies,
      "Score as generation with this policy would: exact, refill or stream, or a list for a table");
  add_kv_cache(*command, options->kv_cache);
  command->add_option("--refill", options->refill, "With --policy: latents that refill recomputes (0 = half)")
      ->check(at_least(0));
  command
      ->add_option("--max-tokens", options->max_tokens,
                   "With --policy: score at most this many tokens per document (0 = all)")
      ->check(at_least(0));
  command
      ->add_option("--context-shards", options->context_shards,
                   "Ranks that share the context of each window, where it is too long for one")
      ->check(at_least(1))
      ->capture_default_str();
  command->add_flag("--json", options->json, "Print JSON");
  command->footer(R"(Examples:
  perceiver eval runs/book --split validation
  perceiver eval runs/book --latents 64,128,256
  perceiver eval runs/book --set data.validation=other.txt --json
  perceiver eval runs/book --policy exact,refill,stream --max-tokens 2000)");
  command->callback(
      [options, &globals, &action] { action = [options, &globals] { return run(*options, globals); }; });
}

}  // namespace perceiver::program
