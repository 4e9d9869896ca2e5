#include "config/read_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "base/check.h"
#include "base/edit_distance.h"
#include "base/text.h"
#include "config/duration.h"

namespace perceiver {
namespace {

using Kind = ConfigNode::Kind;

/// A number if it is the whole text of a plain scalar. Quoted scalars are strings, never numbers.
template <typename Number>
std::optional<Number> read_number(const ConfigNode& node) {
  if (node.kind != Kind::plain) return std::nullopt;
  std::string_view text = node.text;
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<bool> read_bool(const ConfigNode& node) {
  if (node.kind != Kind::plain) return std::nullopt;
  if (node.text == "true" || node.text == "True" || node.text == "TRUE") return true;
  if (node.text == "false" || node.text == "False" || node.text == "FALSE") return false;
  return std::nullopt;
}

std::optional<int64_t> read_integer(const ConfigNode& node, const ValueRange& range) {
  const std::optional<int64_t> value = read_number<int64_t>(node);
  // Bounds are far below 2^53, so the conversion to double cannot change the comparison.
  return value && range.contains(static_cast<double>(*value)) ? value : std::nullopt;
}

std::optional<int64_t> read_integer(const ConfigKey& key, const ConfigNode& node) {
  if (!key.zero_name.empty()) {
    if (node.is_scalar() && node.text == key.zero_name) return 0;
    if (read_number<int64_t>(node) == 0) return 0;
  }
  return read_integer(node, key.range);
}

std::optional<double> read_real(const ConfigNode& node, const ValueRange& range) {
  const std::optional<double> value = read_number<double>(node);
  return value && std::isfinite(*value) && range.contains(*value) ? value : std::nullopt;
}

/// A path or other free text: not empty, and without zero bytes, which file names cannot contain.
std::optional<std::string> read_text(const ConfigNode& node) {
  const bool usable = node.is_scalar() && !node.text.empty() && node.text.find('\0') == std::string::npos;
  return usable && is_utf8(node.text) ? std::optional(node.text) : std::nullopt;
}

/// The same, but it may be empty.
std::optional<std::string> read_optional_text(const ConfigNode& node) {
  return node.is_scalar() && node.text.empty() ? std::optional<std::string>("") : read_text(node);
}

std::optional<std::string> read_choice(const ConfigKey& key, const ConfigNode& node) {
  const bool known =
      node.is_scalar() && std::find(key.choices.begin(), key.choices.end(), node.text) != key.choices.end();
  return known ? std::optional(node.text) : std::nullopt;
}

/// Reads every item of a sequence; returns nothing and sets `bad` to the item if one is invalid.
template <typename Element, typename Read>
std::optional<std::vector<Element>> read_list(const ConfigNode& node, Read read, const ConfigNode*& bad) {
  if (node.kind != Kind::sequence) return std::nullopt;
  std::vector<Element> values;
  for (const ConfigNode& item : node.items) {
    std::optional<Element> value = read(item);
    if (!value) {
      bad = &item;
      return std::nullopt;
    }
    values.push_back(std::move(*value));
  }
  return values;
}

/// A name as `format_value` writes it without quotes.
bool is_name(std::string_view text) {
  const auto inner = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'; };
  return !text.empty() && text[0] >= 'a' && text[0] <= 'z' && std::all_of(text.begin(), text.end(), inner);
}

/// Names to scalars. The scalars stay text: only the modality knows what they may be.
std::optional<std::map<std::string, std::string>> read_pairs(const ConfigNode& node, const ConfigNode*& bad) {
  if (node.kind != Kind::mapping) return std::nullopt;
  std::map<std::string, std::string> pairs;
  for (size_t i = 0; i < node.keys.size(); ++i) {
    const std::optional<std::string> value = read_text(node.items[i]);
    if (!is_name(node.keys[i].text) || !value) {
      bad = is_name(node.keys[i].text) ? &node.items[i] : &node.keys[i];
      return std::nullopt;
    }
    pairs[node.keys[i].text] = *value;
  }
  return pairs;
}

template <typename Type>
std::optional<ConfigValue> widen(std::optional<Type> value) {
  return value ? std::optional<ConfigValue>(std::move(*value)) : std::nullopt;
}

/// The empty list, mapping or text, for a key without a value ("validation:", --set data.validation=).
std::optional<ConfigValue> empty_value(ValueKind kind) {
  switch (kind) {
    case ValueKind::integers:
      return std::vector<int64_t>{};
    case ValueKind::reals:
      return std::vector<double>{};
    case ValueKind::texts:
      return std::vector<std::string>{};
    case ValueKind::pairs:
      return std::map<std::string, std::string>{};
    case ValueKind::text:
      return std::string();
    default:
      return std::nullopt;
  }
}

/// The value, or nothing with `bad` set to the offending node.
std::optional<ConfigValue> try_read(const ConfigKey& key, const ConfigNode& node, const ConfigNode*& bad) {
  if (node.kind == Kind::null) return empty_value(key.kind);
  switch (key.kind) {
    case ValueKind::boolean:
      return widen(read_bool(node));
    case ValueKind::integer:
      return widen(read_integer(key, node));
    case ValueKind::seed:
      return widen(read_number<uint64_t>(node));
    case ValueKind::real:
      return widen(read_real(node, key.range));
    case ValueKind::choice:
      return widen(read_choice(key, node));
    case ValueKind::integers:
      return widen(read_list<int64_t>(
          node, [&](const ConfigNode& item) { return read_integer(item, key.range); }, bad));
    case ValueKind::reals:
      return widen(read_list<double>(
          node, [&](const ConfigNode& item) { return read_real(item, key.range); }, bad));
    case ValueKind::texts:
      if (!node.is_scalar()) return widen(read_list<std::string>(node, read_text, bad));
      if (std::optional<std::string> text = read_text(node)) return std::vector<std::string>{*text};
      return std::nullopt;
    case ValueKind::pairs:
      return widen(read_pairs(node, bad));
    case ValueKind::text:
      return widen(read_optional_text(node));
    case ValueKind::duration:
      return widen(node.is_scalar() ? read_duration(node.text) : std::nullopt);
  }
  return std::nullopt;
}

std::string suggestion(const ConfigKey& key, const ConfigNode& node) {
  if (key.kind != ValueKind::choice || !node.is_scalar()) return "";
  const std::vector<std::string_view> choices(key.choices.begin(), key.choices.end());
  return fmt::format("; did you mean '{}'?", choices[nearest_word(node.text, choices)]);
}

}  // namespace

ConfigValue read_value(const ConfigKey& key, const ConfigNode& node, const std::string& source) {
  const ConfigNode* bad = &node;
  std::optional<ConfigValue> value = try_read(key, node, bad);
  if (!value)
    throw_user("{}: {} must be {}, not {}{}", describe_place(source, bad->position), key.path,
               describe_values(key), describe_found(*bad), suggestion(key, *bad));
  return std::move(*value);
}

std::string describe_found(const ConfigNode& node) {
  switch (node.kind) {
    case Kind::null:
      return "nothing";
    case Kind::sequence:
      return "a list";
    case Kind::mapping:
      return "a mapping";
    case Kind::quoted:
      return "the string " + quote(node.text);
    case Kind::plain:
      return quote(node.text);
  }
  return "";
}

}  // namespace perceiver
