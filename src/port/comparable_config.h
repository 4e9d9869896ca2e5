// Configurations of the same function as the same values.
#pragma once

#include <string>
#include <vector>

#include "perceiver/config.h"

namespace perceiver {

/// The configuration with everything that means the same written in one way, and with what matters only to
/// training, to initial values or to speed as by default. Vocabulary and output_bias, which depend on ids,
/// are left out too.
ModelConfig comparable(ModelConfig config);

/// "model.biases is all; theirs is none" for each key whose values differ.
std::vector<std::string> differences(const ModelConfig& ours, const ModelConfig& theirs,
                                     const std::string& project);

}  // namespace perceiver
