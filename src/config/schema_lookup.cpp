#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <unordered_map>

#include "base/edit_distance.h"
#include "config/duration.h"
#include "config/schema.h"

namespace perceiver {
namespace {

std::string_view section_of(std::string_view path) {
  const size_t dot = path.rfind('.');
  return dot == std::string_view::npos ? std::string_view() : path.substr(0, dot);
}

std::string_view name_of(std::string_view path) {
  return path.substr(path.rfind('.') + 1);
}

/// Distance between two paths: that of their last parts, plus one if they are in different sections.
size_t path_distance(std::string_view wanted, std::string_view known, size_t limit) {
  const size_t names = edit_distance(name_of(wanted), name_of(known), limit);
  const size_t sections = section_of(wanted) == section_of(known) ? 0 : 1;
  return std::min(limit, names + sections);
}

std::string format_bound(double bound) {
  return fmt::format("{}", bound);
}

std::string describe_range(const ValueRange& range) {
  const bool has_min = std::isfinite(range.min);
  const bool has_max = std::isfinite(range.max);
  if (!has_min && !has_max) return "";
  const std::string min = format_bound(range.min);
  const std::string max = format_bound(range.max);
  if (has_min && has_max && !range.min_excluded && !range.max_excluded)
    return fmt::format(" from {} to {}", min, max);
  std::string text;
  if (has_min) text = fmt::format(" {} {}", range.min_excluded ? ">" : ">=", min);
  if (has_max) text += fmt::format("{} {} {}", has_min ? " and" : "", range.max_excluded ? "<" : "<=", max);
  return text;
}

/// True if YAML reads the text back as the same string without quotes.
bool is_bare_word(std::string_view text) {
  const auto is_letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '/';
  };
  const auto is_inner = [&](char c) {
    return is_letter(c) || (c >= '0' && c <= '9') || c == '.' || c == '-';
  };
  if (text.empty() || !is_letter(text.front()) || !std::all_of(text.begin(), text.end(), is_inner))
    return false;
  static constexpr std::string_view special[] = {"null", "Null",  "NULL",  "true", "True",
                                                 "TRUE", "false", "False", "FALSE"};
  return std::find(std::begin(special), std::end(special), text) == std::end(special);
}

std::string format_text(const std::string& text) {
  if (is_bare_word(text)) return text;
  std::string result = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (byte < 0x20 || byte == 0x7F) {
      result += fmt::format("\\x{:02x}", byte);
    } else {
      result += c;
    }
  }
  return result + '"';
}

struct Formatter {
  std::string operator()(bool value) const { return value ? "true" : "false"; }
  std::string operator()(int64_t value) const { return std::to_string(value); }
  std::string operator()(uint64_t value) const { return std::to_string(value); }
  std::string operator()(double value) const { return fmt::format("{}", value); }
  std::string operator()(const std::string& value) const { return format_text(value); }
  template <typename Element>
  std::string operator()(const std::vector<Element>& values) const {
    std::vector<std::string> words;
    for (const Element& value : values) words.push_back((*this)(value));
    return fmt::format("[{}]", fmt::join(words, ", "));
  }
  std::string operator()(const std::map<std::string, std::string>& pairs) const {
    std::vector<std::string> words;
    for (const auto& [name, value] : pairs) words.push_back(name + ": " + format_text(value));
    return fmt::format("{{{}}}", fmt::join(words, ", "));
  }
};

}  // namespace

std::string_view ConfigKey::section() const {
  return section_of(path);
}
std::string_view ConfigKey::name() const {
  return name_of(path);
}

const ConfigKey* find_config_key(std::string_view path) {
  static const std::unordered_map<std::string_view, const ConfigKey*> index = [] {
    std::unordered_map<std::string_view, const ConfigKey*> result;
    for (const ConfigKey& key : config_keys()) result.emplace(key.path, &key);
    return result;
  }();
  const auto found = index.find(path);
  return found == index.end() ? nullptr : found->second;
}

const ConfigKey* find_pairs_key(std::string_view path) {
  const ConfigKey* key = find_config_key(section_of(path));
  return key != nullptr && key->kind == ValueKind::pairs ? key : nullptr;
}

bool is_config_section(std::string_view name) {
  const auto& sections = config_sections();
  return std::any_of(sections.begin(), sections.end(),
                     [&](const ConfigSection& section) { return section.name == name; });
}

std::string nearest_config_path(std::string_view path) {
  std::string_view best;
  size_t best_distance = SIZE_MAX;
  const auto consider = [&](std::string_view known) {
    const size_t distance = path_distance(path, known, best_distance);
    if (distance < best_distance) best = known, best_distance = distance;
  };
  for (const ConfigKey& key : config_keys()) consider(key.path);
  for (const ConfigSection& section : config_sections())
    if (!section.name.empty()) consider(section.name);
  return std::string(best);
}

std::string describe_values(const ConfigKey& key) {
  const std::string range = describe_range(key.range);
  switch (key.kind) {
    case ValueKind::boolean:
      return "true or false";
    case ValueKind::integer:
      return key.zero_name.empty() ? "an integer" + range
                                   : fmt::format("{}, or an integer{}", key.zero_name, range);
    case ValueKind::seed:
      return "an integer from 0 to 2^64 - 1";
    case ValueKind::real:
      return "a number" + range;
    case ValueKind::choice:
      return fmt::format("one of {}", fmt::join(key.choices, ", "));
    case ValueKind::integers:
      return "a list of integers" + range;
    case ValueKind::reals:
      return "a list of numbers" + range;
    case ValueKind::texts:
      return "a string or a list of strings";
    case ValueKind::pairs:
      return "a mapping of names to values";
    case ValueKind::text:
      return "a string";
    case ValueKind::duration:
      return "a length of time such as 90s, 20m or 1.5h, or 0";
  }
  return "";
}

std::string format_value(const ConfigValue& value) {
  return std::visit(Formatter(), value);
}

std::string format_value(const ConfigKey& key, const Config& config) {
  const ConfigValue value = key.get(config);
  if (key.kind == ValueKind::duration) return format_duration(std::get<double>(value));
  return !key.zero_name.empty() && value == ConfigValue(int64_t{0}) ? key.zero_name : format_value(value);
}

}  // namespace perceiver
