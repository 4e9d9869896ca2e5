// YAML and JSON text into trees, by yaml-cpp and nlohmann-json; none of their exceptions or types get out.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "config/node.h"

namespace perceiver {

/// Longest configuration text accepted, bytes.
constexpr size_t max_config_text = size_t{1} << 20;

/// Reads one YAML document. Refused with a `user` error "source:line:column: ...": anything but UTF-8 text of
/// at most max_config_text bytes without control characters, syntax errors, anchors, aliases, tags, a second
/// document, and what NodeBuilder refuses. An empty text is null.
ConfigNode parse_yaml(std::string_view text, const std::string& source);

/// Same for a YAML value given on a command line: its positions are 0.
ConfigNode parse_yaml_value(std::string_view text, const std::string& source);

/// Reads one JSON value under the same limits; positions are 0.
ConfigNode parse_json(std::string_view text, const std::string& source);

}  // namespace perceiver
