// perceiver sample to files: audio, images, music, arrays. (Text with --out goes the way of printed text.)
#pragma once

#include <string>

#include "data/modality.h"
#include "distributed/world.h"
#include "generate/generate.h"
#include "tools/commands.h"

namespace perceiver::program {

struct FileSampling {
  std::string out;            ///< file to write; its extension sets the format
  std::string prompt_file;    ///< file to continue, or empty
  PromptPart prompt;          ///< how much of it
  bool length_given = false;  ///< whether --tokens was given
};

/// How many samples, and how many at once.
struct BatchSampling {
  EngineOptions engine;
  int64_t count = 1;    ///< of each prompt
  int64_t at_once = 0;  ///< 0: up to 8
  EngineOptions options_for(int64_t samples) const;
};

/// Adds --out and the options that limit a prompt file.
void add_file_sampling(CLI::App& command, FileSampling& options);

/// Generates as `request` says (except its prompt), on all ranks; rank 0 writes the files and prints their
/// names.
int sample_to_files(const LoadedModel& loaded, const FileSampling& options, GenerationRequest request,
                    const BatchSampling& batch, World* world);

}  // namespace perceiver::program
