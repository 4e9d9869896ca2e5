// perceiver sample for data that is written to files: sound, pictures, music, arrays, and text with --out.
#pragma once

#include <string>

#include "data/modality.h"
#include "generate/exact_generator.h"
#include "tools/commands.h"

namespace perceiver::program {

struct FileSampling {
  std::string out;            ///< file to write; its ending chooses the format
  std::string prompt_file;    ///< file to continue, or empty
  PromptOptions prompt;       ///< how much of it
  bool length_given = false;  ///< whether the request's number of tokens was asked for
};

/// Adds --out and what limits a prompt file.
void add_file_sampling(CLI::App& command, FileSampling& options);

/// Whether the command line or the model asks for files rather than for text on the terminal.
bool wants_files(const FileSampling& options, const ModelMetadata& metadata);

/// Generates as `request` says (its prompt is replaced), writes the files and prints their names.
int sample_to_files(const LoadedModel& loaded, const FileSampling& options, GenerationRequest request);

}  // namespace perceiver::program
