#include "serve/json_fields.h"

#include <cmath>

#include "base/edit_distance.h"
#include "base/text.h"
#include "io/json_document.h"
#include "perceiver/error.h"
#include "serve/http_error.h"

namespace perceiver::serve {
namespace {

/// Whole numbers, also as 16.0.
std::optional<int64_t> whole(const nlohmann::json& value) {
  if (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX) return std::nullopt;
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const double number = value.get<double>();
  if (number != std::floor(number) || std::abs(number) > 9e15) return std::nullopt;
  return static_cast<int64_t>(number);
}

}  // namespace

JsonFields::JsonFields(const nlohmann::json& object, std::string where)
    : object_(object), where_(std::move(where)) {
  if (object.is_object()) return;
  const std::string what = where_.empty() ? "the body" : where_.substr(0, where_.size() - 1);
  refuse(400, "{} must be a JSON object", what);
}

const nlohmann::json* JsonFields::any(const std::string& name) {
  known_.insert(name);
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<int64_t> JsonFields::integer(const std::string& name, int64_t least, int64_t most) {
  const nlohmann::json* value = any(name);
  if (value == nullptr) return std::nullopt;
  const std::optional<int64_t> number = whole(*value);
  if (!number || *number < least || *number > most)
    refuse(400, "{}{} must be a whole number from {} to {}", where_, name, least, most);
  return number;
}

std::optional<double> JsonFields::number(const std::string& name, double least, double most) {
  const nlohmann::json* value = any(name);
  if (value == nullptr) return std::nullopt;
  const double number = value->is_number() ? value->get<double>() : NAN;
  if (!(number >= least && number <= most))
    refuse(400, "{}{} must be a number from {} to {}", where_, name, least, most);
  return number;
}

std::optional<bool> JsonFields::flag(const std::string& name) {
  const nlohmann::json* value = any(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) refuse(400, "{}{} must be true or false", where_, name);
  return value->get<bool>();
}

std::optional<std::string> JsonFields::text(const std::string& name) {
  const nlohmann::json* value = any(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) refuse(400, "{}{} must be a string", where_, name);
  return value->get<std::string>();
}

std::optional<std::string> JsonFields::one_of(const std::string& name,
                                              const std::vector<std::string_view>& choices) {
  const std::optional<std::string> word = text(name);
  if (!word) return std::nullopt;
  for (const std::string_view choice : choices)
    if (choice == *word) return word;
  refuse(400, "{}{}: {} is unknown; the choices: {}", where_, name, quote(*word), fmt::join(choices, ", "));
}

void JsonFields::finish() const {
  for (const auto& [name, value] : object_.items()) {
    if (known_.contains(name)) continue;
    const std::vector<std::string_view> names(known_.begin(), known_.end());
    refuse(400, "{}{} is unknown; did you mean {}?", where_, quote(name), names[nearest_word(name, names)]);
  }
}

nlohmann::json parse_body(std::string_view body) {
  nlohmann::json json;
  try {
    json = parse_json_document(body, "the body");
  } catch (const Error& error) {
    throw HttpError(400, error.what());
  }
  if (!json.is_object()) refuse(400, "the body must be a JSON object");
  return json;
}

}  // namespace perceiver::serve
