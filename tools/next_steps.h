// Commands to copy, at the end of a training run.
#pragma once

#include <string>
#include <vector>

namespace perceiver::program {

/// The word as a POSIX shell takes it: in single quotes if it needs them.
std::string shell_quote(const std::string& word);
/// All words, quoted where needed, separated by spaces.
std::string shell_command(const std::vector<std::string>& words);

/// How the program was started, from the system; {"perceiver"} where that is unknown.
std::vector<std::string> own_command_line();

/// What to do with the model in a run folder: evaluate it if there is data for that, and generate what its
/// modality is. `program` is how the program was called.
std::vector<std::string> commands_for_model(const std::string& program, const std::string& run,
                                            const std::string& modality, bool validates);

/// The command that continues the run that `started` started.
std::string resume_command(std::vector<std::string> started);

}  // namespace perceiver::program
