// How a model's samples are drawn where the command line does not say: its file can hold defaults for options
// of perceiver sample, as JSON: {"temperature": 0.9, "tokens": 800}.
#pragma once

#include <string>
#include <vector>

#include "tools/sample.h"

namespace perceiver::program {

/// The JSON of settings NAME=VALUE, where NAME is that of an option: tokens, temperature, top-k, top-p, min-p
/// or repetition-penalty. Throws `user` for other names and for values that no option takes.
std::string sampling_defaults(const std::vector<std::string>& settings);

/// Sets the options that the command line does not give. Throws `user` for text that `sampling_defaults` does
/// not write; `source` names the file.
void apply_sampling_defaults(const std::string& json, const std::string& source, SampleCommand& options);

}  // namespace perceiver::program
