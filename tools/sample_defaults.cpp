#include "tools/sample_defaults.h"

#include <spdlog/spdlog.h>

#include <charconv>
#include <nlohmann/json.hpp>

namespace perceiver::program {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kNames[] = {"tokens", "temperature", "top-k", "top-p", "min-p", "repetition-penalty"};

void set_option(SampleCommand& options, const std::string& name, const Json& value) {
  SamplingOptions& sampling = options.request.sampling;
  if (name == "tokens") {
    value.get_to(options.request.tokens);
    options.files.length_given = true;
  } else if (name == "temperature") {
    value.get_to(sampling.temperature);
  } else if (name == "top-k") {
    value.get_to(sampling.top_k);
  } else if (name == "top-p") {
    value.get_to(sampling.top_p);
  } else if (name == "min-p") {
    value.get_to(sampling.min_p);
  } else if (name == "repetition-penalty") {
    value.get_to(sampling.repetition_penalty);
  } else {
    throw_user("'{}' is no option with a default of the model's own; those are {}", name,
               fmt::join(kNames, ", "));
  }
}

/// Sets what the command line does not; returns it in words.
std::string apply_unset(const Json& defaults, SampleCommand& options) {
  std::string set_options;
  for (const auto& [name, value] : defaults.items()) {
    if (!value.is_number()) throw_user("{} is '{}', not a number", name, value.dump());
    if (options.given.contains("--" + name)) continue;
    set_option(options, name, value);
    set_options += fmt::format(" --{} {}", name, value.dump());
  }
  if (options.request.tokens < 0) throw_user("tokens is {}; must be 0 or more", options.request.tokens);
  check_sampling(options.request.sampling);
  return set_options;
}

/// A whole number if it is one.
Json number(const std::string& setting, const std::string& text) {
  int64_t whole = 0;
  double value = 0;
  const char* const end = text.data() + text.size();
  if (const auto [last, error] = std::from_chars(text.data(), end, whole);
      error == std::errc() && last == end)
    return whole;
  if (const auto [last, error] = std::from_chars(text.data(), end, value);
      error == std::errc() && last == end)
    return value;
  throw_user("{}: expected NAME=NUMBER, e.g. temperature=0.9", setting);
}

}  // namespace

std::string sampling_defaults(const std::vector<std::string>& settings) {
  Json defaults = Json::object();
  for (const std::string& setting : settings) {
    const size_t equals = std::min(setting.find('='), setting.size());
    defaults[setting.substr(0, equals)] =
        number(setting, equals < setting.size() ? setting.substr(equals + 1) : "");
  }
  SampleCommand checked;
  apply_unset(defaults, checked);
  return defaults.empty() ? "" : defaults.dump();
}

void apply_sampling_defaults(const std::string& json, const std::string& source, SampleCommand& options) {
  if (json.empty()) return;
  const Json defaults = Json::parse(json, nullptr, false);
  if (!defaults.is_object()) throw_user("{}: its metadata 'sampling' is no JSON object", source);
  try {
    const std::string set_options = apply_unset(defaults, options);
    if (!set_options.empty()) spdlog::info("as the model says:{}", set_options);
  } catch (const Error& error) {
    throw_user("{}: its metadata 'sampling': {}", source, error.what());
  }
}

}  // namespace perceiver::program
