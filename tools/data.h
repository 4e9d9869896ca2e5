// The subcommands of `perceiver data`, and their common parts.
#pragma once

#include "data/modality.h"
#include "tools/commands.h"

namespace perceiver::program {

void add_data_build(CLI::App& data, Globals& globals, Action& action);
void add_data_info(CLI::App& data, Globals& globals, Action& action);
void add_data_modalities(CLI::App& data, Globals& globals, Action& action);
void add_data_roundtrip(CLI::App& data, Globals& globals, Action& action);
void add_data_tokenizer(CLI::App& data, Globals& globals, Action& action);

/// Lets a subcommand take the options of any modality besides its own, as `--sample-rate 8000` or
/// `--sample_rate=8000`. Of the global options it then takes only those for messages.
void take_modality_options(CLI::App& command, Globals& globals);
/// "1 file", "2 files".
std::string counted(int64_t count, std::string_view singular);

/// Those given, in the modality's spelling. Throws `user` for anything else.
std::map<std::string, std::string> modality_options(const CLI::App& command);

}  // namespace perceiver::program
