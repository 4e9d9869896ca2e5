// Reading configurations: YAML files with overrides from the command line, and JSON out of checkpoints.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "perceiver/config.h"

namespace perceiver {

/// Reads a YAML file, applies the overrides ("train.steps=200", the value in YAML) in order, fills in
/// dependent values and checks everything (config/validate.h). Every mistake is one `user` error: unknown
/// keys name file, line, full path and the nearest known key; bad values what was expected and what was
/// found.
Config load_config(const std::filesystem::path& path, const std::vector<std::string>& overrides = {});

/// Same for a text; `source` names it in errors.
Config parse_config(std::string_view text, const std::string& source,
                    const std::vector<std::string>& overrides = {});

/// The values alone: each is checked by itself, nothing is filled in, and they may contradict each other.
Config read_config(std::string_view text, const std::string& source,
                   const std::vector<std::string>& overrides = {});

/// Reads what config_to_json(...).dump() wrote. The text may come from anywhere: all of load_config's checks
/// apply. Keys that are missing keep their defaults.
Config config_from_json(std::string_view text, const std::string& source);

/// Reads what model_to_json(...).dump() wrote, likewise.
ModelConfig model_from_json(std::string_view text, const std::string& source);

}  // namespace perceiver
