// The readable reference of all configuration keys.
#pragma once

#include <string>

namespace perceiver {

/// Every key with its values, default and meaning, by section, in lines of at most 100 columns. `prefix`
/// selects a section ("train") or one key ("train.steps"); a `user` error names the nearest known one
/// otherwise.
std::string explain_config(const std::string& prefix = "");

}  // namespace perceiver
