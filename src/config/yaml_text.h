// Parses YAML and JSON text into trees with yaml-cpp and nlohmann-json; none of their exceptions or types
// escape.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "config/node.h"

namespace perceiver {

/// Longest configuration text accepted, bytes.
constexpr size_t max_config_text = size_t{1} << 20;

/// Parses one YAML document; an empty text is null. Throws a `user` error "source:line:column: ..." for
/// syntax errors, anchors, aliases, tags, a second document, whatever NodeBuilder refuses, control
/// characters, text that is not UTF-8, and more than max_config_text bytes.
ConfigNode parse_yaml(std::string_view text, const std::string& source);

/// Same for a YAML value from the command line; its positions are 0.
ConfigNode parse_yaml_value(std::string_view text, const std::string& source);

/// Parses one JSON value under the same limits; positions are 0.
ConfigNode parse_json(std::string_view text, const std::string& source);

}  // namespace perceiver
