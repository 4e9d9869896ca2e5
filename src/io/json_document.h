// Parses untrusted JSON text. nlohmann-json accepts any nesting but processes documents recursively: a file
// full of brackets would overflow the stack.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace perceiver {

/// Deepest nesting accepted.
constexpr int json_max_depth = 32;

/// Throws a `user` error if the text is not JSON or is nested deeper than json_max_depth.
nlohmann::json parse_json_document(std::string_view text, const std::string& source);

}  // namespace perceiver
