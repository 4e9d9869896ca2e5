// The subcommands of `perceiver data`, and what they share.
#pragma once

#include "data/modality.h"
#include "tools/commands.h"

namespace perceiver::program {

void add_data_build(CLI::App& data, Globals& globals, Action& action);
void add_data_info(CLI::App& data, Globals& globals, Action& action);
void add_data_modalities(CLI::App& data, Globals& globals, Action& action);
void add_data_roundtrip(CLI::App& data, Globals& globals, Action& action);
void add_data_tokenizer(CLI::App& data, Globals& globals, Action& action);

/// Lets a subcommand take the options of any modality, `--sample-rate 8000` as well as `--sample_rate=8000`,
/// which its own do not know.
void take_modality_options(CLI::App& command, Globals& globals);
/// What was given of them, in the modality's spelling. Throws `user` for what is no option with a value.
std::map<std::string, std::string> modality_options(const CLI::App& command);

}  // namespace perceiver::program
