// perceiver sample: its options, and its parts.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "data/text/tokenizer.h"
#include "distributed/world.h"
#include "generate/generate.h"
#include "tools/commands.h"
#include "tools/sample_files.h"

namespace perceiver::program {

struct SampleCommand {
  std::string checkpoint, prompt, prompt_file, prompts_file, seed = "0";
  std::vector<std::string> logit_bias;
  GenerationRequest request;
  FileSampling files;
  BatchSampling batch;
  int64_t best_of = 1;
  bool json = false, json_lines = false, no_echo = false, interactive = false;
  Weights weights = Weights::automatic;
  int64_t context_shards = 1;
  std::shared_ptr<Communicator> context_group = {};  ///< of --context-shards, once the ranks have met
  std::set<std::string> given;                       ///< options of the command line, e.g. "--prompt-rows"
};

/// Adds the options to the command, which has a footer and an action of its own.
void add_sample_options(CLI::App& command, SampleCommand& options);

/// Reports what is wrong with the options, or does not go together, before the checkpoint is opened;
/// completes the request.
void check_sample(SampleCommand& options);
/// Reports options that say nothing to a model of that modality.
void check_modality(const SampleCommand& options, const std::string& modality);
/// Whether models of the modality make text.
bool makes_text(const std::string& modality);

/// Draws the seed if it is to be random, the same on all ranks, and says how to repeat it.
void choose_seed(SampleCommand& options, World* world);

/// The prompts that the options name; one, maybe empty, if they name none. Over several ranks, rank 0 reads
/// stdin for all.
std::vector<std::string> read_prompts(const SampleCommand& options, World* world);

/// A prompt line and an answer, again and again.
int sample_interactively(const SampleCommand& options, Engine& engine, const TextTokenizer& tokenizer);

}  // namespace perceiver::program
