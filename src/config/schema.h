// The table of all configuration keys. Reading and writing YAML, JSON and overrides, and
// `perceiver config --explain` all use it.
#pragma once

#include <functional>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "perceiver/config.h"

namespace perceiver {

enum class ValueKind { boolean, integer, seed, real, choice, integers, reals, texts, pairs, text, duration };

/// The value of a key; a `choice` is its name. The alternatives are in the order of ValueKind, whose last
/// two, `text` and `duration`, are a string and a number of seconds too.
using ConfigValue =
    std::variant<bool, int64_t, uint64_t, double, std::string, std::vector<int64_t>, std::vector<double>,
                 std::vector<std::string>, std::map<std::string, std::string>>;

/// The numbers that are allowed; for a list, its elements.
struct ValueRange {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool min_excluded = false;
  bool max_excluded = false;

  bool contains(double value) const {
    return (min_excluded ? value > min : value >= min) && (max_excluded ? value < max : value <= max);
  }
};

struct ConfigKey {
  std::string path;  ///< e.g. "model.latents"
  ValueKind kind;
  ValueRange range;                  ///< for numbers
  std::vector<std::string> choices;  ///< for a choice
  std::string doc;                   ///< meaning and unit
  std::string zero_name;             ///< for an integer: a word that means 0, e.g. "auto"; or empty
  std::function<ConfigValue(const Config&)> get;
  std::function<void(Config&, const ConfigValue&)> set;  ///< the value must be valid

  std::string_view section() const;  ///< "model"; "" for a top-level key
  std::string_view name() const;     ///< "latents"
};

struct ConfigSection {
  std::string name;  ///< "" = the top level
  std::string doc;
};

/// In the order in which they are written and explained.
const std::vector<ConfigSection>& config_sections();
/// Grouped by section, in the order of the sections.
const std::vector<ConfigKey>& config_keys();

/// The key with that full path, or nullptr.
const ConfigKey* find_config_key(std::string_view path);
/// The key of kind `pairs` that contains a path such as "data.options.size", or nullptr.
const ConfigKey* find_pairs_key(std::string_view path);
bool is_config_section(std::string_view name);
/// The known key or section closest to `path`, to suggest in errors.
std::string nearest_config_path(std::string_view path);

/// The values a key takes, e.g. "an integer from 1 to 1000000", "one of adam, sgd", "a list of integers >=
/// 0".
std::string describe_values(const ConfigKey& key);
/// A value as YAML writes it on one line: true, 12, 0.0003, adam, [1, 2], ["a b.txt"]. Doubles read back
/// exactly.
std::string format_value(const ConfigValue& value);
/// The key's value in `config`, likewise; 0 as the key's word for it.
std::string format_value(const ConfigKey& key, const Config& config);

}  // namespace perceiver
