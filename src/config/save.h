// Writes configurations as YAML for people and as JSON for checkpoints. Both are complete and read back
// equal.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "perceiver/config.h"

namespace perceiver {

/// Every key in the order of the schema, by section. read_config restores an equal Config; doubles are exact.
std::string to_yaml(const Config& config);

/// {"device": ..., "model": {...}, ...}; config_from_json reads it back.
nlohmann::json config_to_json(const Config& config);

/// Only the keys of section model, without the prefix; model_from_json reads it back.
nlohmann::json model_to_json(const ModelConfig& model);

}  // namespace perceiver
