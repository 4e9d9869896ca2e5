// perceiver sample: prints text as it is generated.
#include "tools/sample.h"

#include "base/check.h"
#include "data/sample_files.h"
#include "distributed/together.h"
#include "generate/shared_generation.h"
#include "tools/log.h"
#include "tools/output.h"
#include "tools/ranks.h"
#include "tools/sample_defaults.h"
#include "tools/sample_results.h"
#include "tools/shared_model.h"

namespace perceiver::program {
namespace {

/// The ids of a prompt, SOS first; `limit` of them if that is not 0.
std::vector<int32_t> prompt_ids(const TextTokenizer& tokenizer, const std::string& prompt, int64_t limit) {
  std::vector<int32_t> ids = tokenizer.encode(prompt);
  if (limit > 0 && limit < static_cast<int64_t>(ids.size())) ids.resize(static_cast<size_t>(limit));
  ids.insert(ids.begin(), sos_token);
  return ids;
}

std::vector<GenerationRequest> requests_of(const SampleCommand& options,
                                           const std::vector<std::string>& prompts,
                                           const TextTokenizer& tokenizer) {
  std::vector<GenerationRequest> requests;
  for (const std::string& prompt : prompts) {
    GenerationRequest request = options.request;
    request.prompt = prompt_ids(tokenizer, prompt, options.files.prompt.tokens);
    if (!options.json && !options.json_lines && !options.no_echo)
      request.echo = options.files.prompt.tokens > 0 ? tokenizer.decode(request.prompt) : prompt;
    for (int64_t i = 0; i < options.batch.count * options.best_of; ++i) {
      request.sequence = static_cast<uint32_t>(i);  // a prompt's text does not depend on the other prompts
      requests.push_back(request);
    }
  }
  return requests;
}

Engine open_engine(const SampleCommand& options, const LoadedModel& loaded, int64_t total) {
  return Engine(*loaded.model, suited_options(options.batch.options_for(total), loaded.metadata));
}

/// Nobody reads what rank 0 prints: then all ranks give up.
template <typename Print>
void until_reader_goes(const Print& print) {
  try {
    print();
  } catch (const ReaderGone&) {
    throw Cancelled();
  }
}

/// The ranks among which samples are dealt; null where every rank works on every sample.
World* dealing_world(const SampleCommand& options, World* world) {
  return options.context_group ? nullptr : world;
}

int sample_text(const SampleCommand& options, const LoadedModel& loaded, World* world) {
  const auto tokenizer = make_tokenizer(loaded.metadata.tokenizer);
  if (options.interactive) {
    if (world != nullptr && world->size() > 1) throw_usage("--interactive answers on one process; start one");
    Engine engine = open_engine(options, loaded, 1);
    check_refill(options.batch.engine, engine.options());
    return sample_interactively(options, engine, *tokenizer);
  }
  if (!options.files.out.empty())
    check_output(*modality_of_model(loaded.metadata.modality, loaded.metadata.tokenizer), options.files.out);
  const std::vector<std::string> prompts = read_prompts(options, world);
  const std::vector<GenerationRequest> requests = requests_of(options, prompts, *tokenizer);
  Engine engine = open_engine(options, loaded, static_cast<int64_t>(requests.size()));
  check_refill(options.batch.engine, engine.options());
  const bool leads = world == nullptr || world->leads();
  SampleResults results(options, prompts);
  const auto grow = [&](int64_t, const ChosenToken&, const std::string& text) {
    if (leads) until_reader_goes([&] { results.grow(text); });
    return true;
  };
  const auto finished = [&](int64_t request, const Completion& completion) {
    if (leads) until_reader_goes([&] { results.finished(request, completion); });
  };
  try {
    generate_together(dealing_world(options, world), engine, requests, grow, tokenizer.get(), finished);
  } catch (const Cancelled&) {
    throw ReaderGone();
  }
  if (leads) results.end();
  return 0;
}

void join_context(SampleCommand& options, World* world, DeviceContext& context) {
  const int ranks = world == nullptr ? 1 : world->size();
  if (options.context_shards > 1 && options.context_shards != ranks)
    throw_usage("--context-shards {}: all ranks share the contexts of samples, and there {} {}",
                options.context_shards, ranks == 1 ? "is" : "are", ranks);
  options.context_group = context_group(options.context_shards, world, context);
  options.batch.engine.context_group = options.context_group.get();
}

int run(SampleCommand& options, const Globals& globals) {
  check_sample(options);
  const std::shared_ptr<World> world = open_world(globals);
  const LoadedModel loaded =
      open_shared_checkpoint(options.checkpoint, globals, world.get(), options.weights);
  check_modality(options, loaded.metadata.modality);
  apply_sampling_defaults(loaded.metadata.sampling, options.checkpoint, options);
  choose_seed(options, world.get());
  join_context(options, world.get(), loaded.model->context());
  if (makes_text(loaded.metadata.modality)) return sample_text(options, loaded, world.get());
  options.files.prompt_file = options.prompt_file;
  return sample_to_files(loaded, options.files, options.request, options.batch, world.get());
}

/// The options of the command line, by their long names.
std::set<std::string> given_options(const CLI::App& command) {
  std::set<std::string> given;
  for (const CLI::Option* option : command.get_options())
    if (option->count() > 0) given.insert("--" + option->get_single_name());
  return given;
}

}  // namespace

void add_sample(CLI::App& app, Globals& globals, Action& action) {
  auto options = std::make_shared<SampleCommand>();
  CLI::App* command = app.add_subcommand("sample", "Continue prompts");
  add_sample_options(*command, *options);
  command->footer(R"(Examples:
  perceiver sample runs/book --prompt "Once upon a time" --tokens 500 --top-p 0.95
  perceiver sample runs/book --interactive --temperature 0.8
  cat start.txt | perceiver sample runs/book --prompt-file - --no-echo
  perceiver sample runs/book --prompts-file prompts.txt --count 4 --best-of 8 --jsonl
  perceiver sample runs/book --prompt "Once" --seed random --out story.txt
  perceiver sample runs/images --count 16 --out grid.png
  perceiver sample runs/music --prompt-file start.mid --prompt-seconds 10 --out more.mid)");
  command->callback([options, command, &globals, &action] {
    options->given = given_options(*command);
    options->files.length_given = options->given.contains("--tokens");
    action = [options, &globals] { return run(*options, globals); };
  });
}

}  // namespace perceiver::program
