// Reads configurations besides load_config and parse_config (perceiver/config.h): without checks, and JSON
// from checkpoints.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "perceiver/config.h"

namespace perceiver {

/// Only reads the values: each is checked individually, nothing is filled in, and they may contradict each
/// other.
Config read_config(std::string_view text, const std::string& source,
                   const std::vector<std::string>& overrides = {});

/// Throws a `user` error "source: key must be ..., not ..." for the first value of a configuration made in
/// code that a file could not hold: a number out of range, a text with a zero byte. validate() compares keys
/// with each other; this looks at each alone.
void check_values(const Config& config, std::string_view source = "configuration");

/// Reads what config_to_json(...).dump() wrote. The text is not trusted: all checks of load_config apply.
/// Missing keys keep their defaults.
Config config_from_json(std::string_view text, const std::string& source);

/// The same for what model_to_json(...).dump() wrote.
ModelConfig model_from_json(std::string_view text, const std::string& source);

}  // namespace perceiver
