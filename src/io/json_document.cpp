#include "io/json_document.h"

#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/text.h"

namespace perceiver {

nlohmann::json parse_json_document(std::string_view text, const std::string& source) {
  using Event = nlohmann::json::parse_event_t;
  const auto check_depth = [&](int depth, Event, const nlohmann::json&) {
    if (depth > json_max_depth) throw_user("{}: nested more than {} levels deep", source, json_max_depth);
    return true;
  };
  try {
    return nlohmann::json::parse(text, check_depth);
  } catch (const nlohmann::json::exception& error) {
    throw_user("{}: not valid JSON: {}", source, printable(error.what()));  // it quotes the text
  }
}

}  // namespace perceiver
