// JSON text from anywhere into a document. nlohmann-json reads any nesting, but walks over what it has read
// by recursion: a file of nothing but brackets would use up the stack.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace perceiver {

/// Deepest nesting accepted.
constexpr int json_max_depth = 32;

/// Throws a `user` error for what is not JSON or nested deeper than json_max_depth.
nlohmann::json parse_json_document(std::string_view text, const std::string& source);

}  // namespace perceiver
