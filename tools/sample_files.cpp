#include "tools/sample_files.h"

#include <algorithm>
#include <cstdio>

#include "base/check.h"
#include "data/sample_files.h"
#include "generate/shared_generation.h"
#include "tools/describe.h"
#include "tools/validators.h"

namespace perceiver::program {
void add_file_sampling(CLI::App& command, FileSampling& options) {
  command.add_option("--out", options.out, "Write the samples to this file (.txt, .wav, .png, .mid or .npy)")
      ->type_name(kPath);
  command
      .add_option("--prompt-seconds", options.prompt.seconds,
                  "Use this many seconds of --prompt-file (audio and music)")
      ->check(positive());
  command.add_option("--prompt-rows", options.prompt.rows, "Use this many rows of --prompt-file (images)")
      ->check(at_least(1));
  command.add_option("--prompt-tokens", options.prompt.tokens, "Use this many tokens of --prompt-file")
      ->check(at_least(1));
  command
      .add_option("--prompt-known", options.prompt.known,
                  "Mask for --prompt-file (PNG): white where the image is known")
      ->type_name(kPath);
}

EngineOptions BatchSampling::options_for(int64_t samples) const {
  constexpr int64_t kDefault = 8;
  EngineOptions options = engine;
  options.slots = std::max<int64_t>(1, std::min(samples, at_once > 0 ? at_once : kDefault));
  return options;
}

int sample_to_files(const LoadedModel& loaded, const FileSampling& options, GenerationRequest request,
                    const BatchSampling& batch, World* world) {
  const auto modality = modality_of_model(loaded.metadata.modality, loaded.metadata.tokenizer);
  if (options.out.empty())
    throw_usage("this model makes {}; use --out FILE{}", loaded.metadata.modality,
                modality->outputs().front());
  check_output(*modality, options.out);
  Prompt prompt;
  if (!options.prompt_file.empty()) prompt = read_prompt(*modality, options.prompt_file, options.prompt);
  const SamplePlan plan = plan_sample(*modality, prompt, options.length_given ? request.tokens : 0,
                                      loaded.metadata.model.vocabulary);
  request.prompt = plan.prompt;
  request.positions = plan.positions;
  request.biases = plan.biases;
  request.tokens = plan.tokens;
  request.ignore_eos = request.ignore_eos || !plan.may_end;
  std::vector<GenerationRequest> requests(static_cast<size_t>(batch.count), request);
  for (size_t i = 0; i < requests.size(); ++i) requests[i].sequence = static_cast<uint32_t>(i);
  Engine engine(*loaded.model, suited_options(batch.options_for(batch.count), loaded.metadata));
  check_refill(batch.engine, engine.options());
  const bool leads = world == nullptr || world->leads();
  World* const dealt = batch.engine.context_group == nullptr ? world : nullptr;  // else all make each sample
  int64_t done = 0;
  const auto show = [&](int64_t sequence, const ChosenToken&, const std::string&) {
    if (sequence == 0 && leads) show_token_count(++done, plan.tokens);
    return true;
  };
  const std::vector<Completion> all = generate_together(dealt, engine, requests, show);
  end_progress();
  if (!leads) return 0;
  std::vector<TokenSequence> samples;
  for (const Completion& completion : all) {
    std::vector<int32_t> ids(plan.prompt.begin() + 1, plan.prompt.end());
    ids.insert(ids.end(), completion.tokens.begin(), completion.tokens.end());
    samples.push_back(generated_sequence(*modality, std::move(ids), plan.positions));
    samples.back().given = std::ssize(plan.prompt) - 1;
  }
  for (const std::string& path : write_samples(*modality, samples, options.out))
    std::printf("%s\n", path.c_str());
  return 0;
}

}  // namespace perceiver::program
