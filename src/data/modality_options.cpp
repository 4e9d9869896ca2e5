#include "data/modality_options.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/edit_distance.h"
#include "base/text.h"
#include "data/modality.h"
#include "io/json_document.h"

namespace perceiver {
namespace {

constexpr size_t max_packed_bytes = size_t{64} << 20;

/// Parses the whole text as a number.
template <typename Number>
Number parse_number(std::string_view name, const std::string& text, Number min, Number max,
                    const char* what) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= min && value <= max))
    throw_user("data.options.{}: {} is not {} from {} to {}", name, quote(text), what, min, max);
  return value;
}

}  // namespace

ModalityOptions::ModalityOptions(const ModalityKind& kind, std::map<std::string, std::string> given)
    : kind_(&kind) {
  std::vector<std::string_view> names;
  for (const ModalityOption& option : kind.options) {
    values_.emplace(option.name, option.default_value);
    names.push_back(option.name);
  }
  for (auto& [name, value] : given) {
    const auto known = values_.find(name);
    if (known != values_.end()) {
      known->second = std::move(value);
    } else if (names.empty()) {
      throw_user("data.options.{}: modality {} has no options", name, kind.name);
    } else {
      throw_user("data.options.{}: modality {} has no such option; did you mean '{}'? Its options are {}",
                 name, kind.name, names[nearest_word(name, names)], fmt::join(names, ", "));
    }
  }
}

const std::string& ModalityOptions::text(std::string_view name) const {
  const auto found = values_.find(name);
  if (found == values_.end()) throw_failure("modality {} declares no option {}", kind_->name, name);
  return found->second;
}

int64_t ModalityOptions::integer(std::string_view name, int64_t min, int64_t max) const {
  return parse_number<int64_t>(name, text(name), min, max, "an integer");
}

double ModalityOptions::real(std::string_view name, double min, double max) const {
  return parse_number<double>(name, text(name), min, max, "a number");
}

bool ModalityOptions::flag(std::string_view name) const {
  return word(name, {"false", "true"}) == 1;
}

size_t ModalityOptions::word(std::string_view name, std::initializer_list<std::string_view> words) const {
  const std::string& value = text(name);
  const auto found = std::find(words.begin(), words.end(), value);
  if (found == words.end())
    throw_user("data.options.{}: {} is not one of {}", name, quote(value), fmt::join(words, ", "));
  return static_cast<size_t>(found - words.begin());
}

std::vector<int64_t> ModalityOptions::integers(std::string_view name, size_t most, int64_t min,
                                               int64_t max) const {
  const std::string& list = text(name);
  std::vector<int64_t> numbers;
  const char* at = list.data();
  const char* const end = at + list.size();
  while (at != end) {
    if (!numbers.empty() && *at == ',') ++at;
    int64_t value = 0;
    const auto [next, error] = std::from_chars(at, end, value);
    const bool ended = next == end || *next == ',';
    if (error != std::errc() || !ended || next + 1 == end || value < min || value > max ||
        numbers.size() == most)
      throw_user("data.options.{}: {} is not a list of at most {} integers from {} to {}, such as 8,8", name,
                 quote(list), most, min, max);
    numbers.push_back(value);
    at = next;
  }
  return numbers;
}

std::map<std::string, std::string> ModalityOptions::values(ModalityOption::Use use) const {
  std::map<std::string, std::string> chosen;
  for (const ModalityOption& option : kind_->options)
    if (option.use == use) chosen.emplace(option.name, text(option.name));
  return chosen;
}

std::string pack_tokenizer(std::string_view modality, const std::map<std::string, std::string>& values) {
  return fmt::format("{}\n{}", modality, nlohmann::json(values).dump());
}

std::map<std::string, std::string> unpack_tokenizer(std::string_view modality, std::string_view tokenizer) {
  const size_t line = tokenizer.find('\n');
  if (line == std::string_view::npos || tokenizer.substr(0, line) != modality)
    throw_user("the tokenizer {} does not belong to modality {}", quote(tokenizer.substr(0, line)), modality);
  if (tokenizer.size() > max_packed_bytes)
    throw_user("the tokenizer of modality {} has {} bytes; the limit is {}", modality, tokenizer.size(),
               max_packed_bytes);
  const std::string source = fmt::format("the tokenizer of modality {}", modality);
  const nlohmann::json json = parse_json_document(tokenizer.substr(line + 1), source);
  if (!json.is_object()) throw_user("{}: not a JSON object", source);
  std::map<std::string, std::string> values;
  for (const auto& [name, value] : json.items()) {
    if (!value.is_string()) throw_user("{}: the value of {} is not a string", source, quote(name));
    values.emplace(name, value.get<std::string>());
  }
  return values;
}

}  // namespace perceiver
