#include "tools/sample_files.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/check.h"
#include "data/sample_files.h"

namespace perceiver::program {
namespace {

/// Shows on a terminal how far the first continuation has come.
void show_progress(int64_t done, int64_t total) {
  if (isatty(STDERR_FILENO) == 0) return;
  std::fprintf(stderr, "\r%lld of %lld tokens%s", static_cast<long long>(done), static_cast<long long>(total),
               done == total ? "\r\033[K" : "");
}

}  // namespace

void add_file_sampling(CLI::App& command, FileSampling& options) {
  command.add_option("--out", options.out, "Write the samples to this file: .txt, .wav, .png, .mid, .npy");
  command.add_option("--prompt-seconds", options.prompt.seconds, "Of --prompt-file: sound and music")
      ->check(CLI::PositiveNumber);
  command.add_option("--prompt-rows", options.prompt.rows, "Of --prompt-file: rows of a picture")
      ->check(CLI::PositiveNumber);
  command.add_option("--prompt-tokens", options.prompt.tokens, "Of --prompt-file: tokens")
      ->check(CLI::PositiveNumber);
  command.add_option("--prompt-known", options.prompt.known,
                     "Mask of --prompt-file (PNG): white where the picture is known");
}

bool wants_files(const FileSampling& options, const ModelMetadata& metadata) {
  return !options.out.empty() || (metadata.modality != "text" && metadata.modality != "copy");
}

EngineOptions BatchSampling::options_for(int64_t samples) const {
  constexpr int64_t kDefault = 8;
  EngineOptions options = engine;
  options.slots = std::max<int64_t>(1, std::min(samples, at_once > 0 ? at_once : kDefault));
  return options;
}

int sample_to_files(const LoadedModel& loaded, const FileSampling& options, GenerationRequest request,
                    const BatchSampling& batch) {
  const auto modality = modality_of_model(loaded.metadata.modality, loaded.metadata.tokenizer);
  if (options.out.empty())
    throw_user("this model makes {}; say --out FILE{}", loaded.metadata.modality,
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
  Engine engine(*loaded.model, suited_options(batch.options_for(batch.count), loaded.metadata.modality));
  int64_t done = 0;
  const std::vector<Continuation> all = generate(engine, requests, [&](int64_t sequence, const ChosenToken&) {
    if (sequence == 0) show_progress(++done, plan.tokens);
    return true;
  });
  std::vector<std::vector<int32_t>> samples;
  for (const Continuation& continuation : all) {
    samples.emplace_back(plan.prompt.begin() + 1, plan.prompt.end());
    samples.back().insert(samples.back().end(), continuation.tokens.begin(), continuation.tokens.end());
  }
  for (const std::string& path : write_samples(*modality, samples, plan.positions, options.out))
    std::printf("%s\n", path.c_str());
  return 0;
}

}  // namespace perceiver::program
