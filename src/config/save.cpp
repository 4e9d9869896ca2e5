#include "config/save.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "config/schema.h"

namespace perceiver {
namespace {

nlohmann::json value_to_json(const ConfigKey& key, const Config& config) {
  const ConfigValue value = key.get(config);
  if (key.kind == ValueKind::duration) return format_value(key, config);
  return std::visit([](const auto& typed) { return nlohmann::json(typed); }, value);
}

}  // namespace

std::string to_yaml(const Config& config) {
  std::string text;
  for (const ConfigSection& section : config_sections()) {
    const bool nested = !section.name.empty();
    if (nested) text += fmt::format("\n{}:\n", section.name);
    for (const ConfigKey& key : config_keys())
      if (key.section() == section.name)
        text += fmt::format("{}{}: {}\n", nested ? "  " : "", key.name(), format_value(key, config));
  }
  return text;
}

nlohmann::json config_to_json(const Config& config) {
  nlohmann::json json = nlohmann::json::object();
  for (const ConfigKey& key : config_keys()) {
    const std::string section(key.section());
    nlohmann::json& parent = section.empty() ? json : json[section];
    parent[std::string(key.name())] = value_to_json(key, config);
  }
  return json;
}

nlohmann::json model_to_json(const ModelConfig& model) {
  Config config;
  config.model = model;
  return config_to_json(config)["model"];
}

}  // namespace perceiver
