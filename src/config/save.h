// Writing configurations: as YAML for people, as JSON for checkpoints. Both are complete and read back equal.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "perceiver/config.h"

namespace perceiver {

/// Every key in the schema's order, in sections. read_config gives an equal Config; doubles are exact.
std::string to_yaml(const Config& config);

/// {"device": ..., "model": {...}, ...}; config_from_json reads it back.
nlohmann::json config_to_json(const Config& config);

/// The keys of the section model alone, without the prefix; model_from_json reads it back.
nlohmann::json model_to_json(const ModelConfig& model);

}  // namespace perceiver
