#include "config/load.h"

#include <stdexcept>

#include "base/check.h"
#include "base/text.h"
#include "config/node.h"
#include "config/read_value.h"
#include "config/schema.h"
#include "config/validate.h"
#include "config/yaml_text.h"
#include "io/atomic_file.h"

namespace perceiver {
namespace {

[[noreturn]] void throw_unknown(const std::string& path, const std::string& place) {
  throw_user("{}: unknown key {}; the nearest known key is '{}' (perceiver config --explain lists all)",
             place, quote(path), nearest_config_path(path));
}

void apply(const std::string& path, const ConfigNode& node, const std::string& source, Config& config);

/// Sets one pair of a key of kind `pairs`.
void set_pair(const ConfigKey& key, const std::string& name, const ConfigNode& value,
              const std::string& source, Config& config) {
  using Pairs = std::map<std::string, std::string>;
  ConfigNode mapping{.kind = ConfigNode::Kind::mapping, .position = value.position};
  mapping.keys.push_back({.kind = ConfigNode::Kind::plain, .text = name, .position = value.position});
  mapping.items.push_back(value);
  auto pairs = std::get<Pairs>(key.get(config));
  pairs[name] = std::get<Pairs>(read_value(key, mapping, source)).at(name);
  key.set(config, pairs);
}

/// Applies one entry of a section ("" = the top level) to `config`.
void apply_entry(const std::string& section, const ConfigNode& key, const ConfigNode& value,
                 const std::string& source, Config& config) {
  const std::string place = describe_place(source, key.position);
  if (key.text.find('.') != std::string::npos)
    throw_user("{}: the key {} contains a dot; write sections as nested mappings", place, quote(key.text));
  const std::string path = section.empty() ? key.text : section + "." + key.text;
  // Sections do not nest: below a section there are only keys.
  const bool opens_section = section.empty() && !path.empty() && is_config_section(path);
  if (!opens_section && !find_config_key(path)) throw_unknown(path, place);
  apply(path, value, source, config);
}

/// Applies `node` to `config`; `path` is that of a key or a section, or "" for the whole configuration.
void apply(const std::string& path, const ConfigNode& node, const std::string& source, Config& config) {
  const std::string place = describe_place(source, node.position);
  if (const ConfigKey* key = find_config_key(path)) {
    key->set(config, read_value(*key, node, source));
    return;
  }
  if (const ConfigKey* key = find_pairs_key(path)) {
    set_pair(*key, path.substr(key->path.size() + 1), node, source, config);
    return;
  }
  if (!is_config_section(path)) throw_unknown(path, place);
  if (node.kind == ConfigNode::Kind::null) return;
  if (node.kind != ConfigNode::Kind::mapping)
    throw_user("{}: {} must be a mapping of keys to values, not {}", place,
               path.empty() ? "the configuration" : quote(path), describe_found(node));
  for (size_t i = 0; i < node.keys.size(); ++i)
    apply_entry(path, node.keys[i], node.items[i], source, config);
}

void apply_override(const std::string& override_text, Config& config) {
  const std::string source = "--set " + quote(override_text);
  const size_t equals = override_text.find('=');
  if (equals == std::string::npos || equals == 0)
    throw_user("{}: must have the form key=value, e.g. --set train.steps=200", source);
  apply(override_text.substr(0, equals), parse_yaml_value(override_text.substr(equals + 1), source), source,
        config);
}

}  // namespace

Config read_config(std::string_view text, const std::string& source,
                   const std::vector<std::string>& overrides) {
  Config config;
  apply("", parse_yaml(text, source), source, config);
  for (const std::string& each : overrides) apply_override(each, config);
  return config;
}

Config parse_config(std::string_view text, const std::string& source,
                    const std::vector<std::string>& overrides) {
  Config config = read_config(text, source, overrides);
  resolve(config);
  validate(config, source);
  return config;
}

Config load_config(const std::filesystem::path& path, const std::vector<std::string>& overrides) {
  return parse_config(read_file(path, max_config_text), path.string(), overrides);
}

void check_values(const Config& config, std::string_view source) {
  // As a file would say it: the checks of reading are the only ones there are.
  const std::string place(source);
  for (const ConfigKey& key : config_keys()) {
    std::string text;
    try {
      text = format_value(key, config);
    } catch (const std::out_of_range&) {
      throw_user("{}: {} must be {}; the number in its place stands for none of them", place, key.path,
                 describe_values(key));
    }
    read_value(key, parse_yaml_value(text, fmt::format("{}: {}", place, key.path)), place);
  }
}

Config config_from_json(std::string_view text, const std::string& source) {
  Config config;
  apply("", parse_json(text, source), source, config);
  resolve(config);
  validate(config, source);
  return config;
}

ModelConfig model_from_json(std::string_view text, const std::string& source) {
  Config config;
  apply("model", parse_json(text, source), source, config);
  resolve(config.model);
  validate(config.model, source);
  return config.model;
}

}  // namespace perceiver
