// Writes configurations as JSON for checkpoints, complete, so that they read back equal; to_yaml
// (perceiver/config.h) writes them for people.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "perceiver/config.h"

namespace perceiver {

/// {"device": ..., "model": {...}, ...}; config_from_json reads it back.
nlohmann::json config_to_json(const Config& config);

/// Only the keys of section model, without the prefix; model_from_json reads it back.
nlohmann::json model_to_json(const ModelConfig& model);

}  // namespace perceiver
