// The configuration reference that `perceiver config --explain` prints.
#pragma once

#include <string>

namespace perceiver {

/// Every key with its values, default and meaning, by section, in lines of at most 100 columns. `prefix`
/// selects a section ("train") or a key ("train.steps"); for anything else a `user` error suggests the
/// nearest.
std::string explain_config(const std::string& prefix = "");

}  // namespace perceiver
