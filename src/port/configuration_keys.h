// Typed access to another implementation's configuration, with errors that name the key.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"

namespace perceiver {

class ConfigurationKeys {
 public:
  ConfigurationKeys(const nlohmann::json& object, std::string source)
      : object_(object), source_(std::move(source)) {
    if (!object_.is_object()) throw_user("{}: the configuration is not a JSON object", source_);
  }

  const std::string& source() const { return source_; }
  bool has(const char* key) const {
    const auto found = object_.find(key);
    return found != object_.end() && !found->is_null();
  }
  template <typename T>
  T get(const char* key) const {
    if (!has(key)) throw_user("{}: the configuration lacks '{}'", source_, key);
    return convert<T>(key, object_.at(key));
  }
  /// `fallback` for a key that is missing or null.
  template <typename T>
  T get(const char* key, T fallback) const {
    return has(key) ? convert<T>(key, object_.at(key)) : fallback;
  }
  template <typename T>
  T choice(const char* key, const std::vector<std::pair<std::string, T>>& values) const {
    const auto name = get<std::string>(key);
    for (const auto& [text, value] : values)
      if (text == name) return value;
    throw_user("{}: '{}' is '{}', which this program does not know", source_, key, name);
  }

 private:
  template <typename T>
  T convert(const char* key, const nlohmann::json& value) const {
    try {
      return value.get<T>();
    } catch (const nlohmann::json::exception&) {
      throw_user("{}: '{}' has the wrong type: {}", source_, key, value.dump());
    }
  }

  const nlohmann::json& object_;
  std::string source_;
};

}  // namespace perceiver
