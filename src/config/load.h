// Reads configurations: YAML files with overrides from the command line, and JSON from checkpoints.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "perceiver/config.h"

namespace perceiver {

/// Reads a YAML file, applies the overrides ("train.steps=200", the value in YAML) in order, fills in
/// dependent values and validates everything (config/validate.h). Throws a `user` error: for an unknown key,
/// with file, line, full path and the nearest known key; for a bad value, with what was expected and what was
/// found.
Config load_config(const std::filesystem::path& path, const std::vector<std::string>& overrides = {});

/// The same for a text; `source` names it in errors.
Config parse_config(std::string_view text, const std::string& source,
                    const std::vector<std::string>& overrides = {});

/// Only reads the values: each is checked individually, nothing is filled in, and they may contradict each
/// other.
Config read_config(std::string_view text, const std::string& source,
                   const std::vector<std::string>& overrides = {});

/// Reads what config_to_json(...).dump() wrote. The text is not trusted: all checks of load_config apply.
/// Missing keys keep their defaults.
Config config_from_json(std::string_view text, const std::string& source);

/// The same for what model_to_json(...).dump() wrote.
ModelConfig model_from_json(std::string_view text, const std::string& source);

}  // namespace perceiver
