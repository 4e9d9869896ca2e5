// perceiver sample for data that is written to files: sound, pictures, music, arrays, and text with --out.
#pragma once

#include <string>

#include "data/modality.h"
#include "generate/generate.h"
#include "tools/commands.h"

namespace perceiver::program {

struct FileSampling {
  std::string out;            ///< file to write; its ending chooses the format
  std::string prompt_file;    ///< file to continue, or empty
  PromptOptions prompt;       ///< how much of it
  bool length_given = false;  ///< whether the request's number of tokens was asked for
};

/// How many samples, and how many of them at once.
struct BatchSampling {
  EngineOptions engine;
  int64_t count = 1;    ///< of each prompt
  int64_t at_once = 0;  ///< 0: up to 8
  EngineOptions options_for(int64_t samples) const;
};

/// Adds --out and what limits a prompt file.
void add_file_sampling(CLI::App& command, FileSampling& options);

/// Whether the command line or the model asks for files rather than for text on the terminal.
bool wants_files(const FileSampling& options, const ModelMetadata& metadata);

/// Generates as `request` says (its prompt is replaced), writes the files and prints their names.
int sample_to_files(const LoadedModel& loaded, const FileSampling& options, GenerationRequest request,
                    const BatchSampling& batch);

}  // namespace perceiver::program
