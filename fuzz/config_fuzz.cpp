// Any text is either refused with a perceiver::Error or is a configuration that survives writing and reading
// back. The first byte selects the entry point: YAML, YAML as an override, a whole configuration as JSON, or
// a model as JSON.
#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "config/load.h"
#include "config/save.h"
#include "perceiver/error.h"

namespace {

using perceiver::Config;

void require(bool condition) {
  if (!condition) std::abort();
}

/// Written text must be readable, and identical when written again.
void check_reread(const Config& config) {
  const std::string yaml = perceiver::to_yaml(config);
  require(perceiver::to_yaml(perceiver::read_config(yaml, "reread")) == yaml);
}

void read_yaml(const std::string& text) {
  check_reread(perceiver::read_config(text, "fuzz"));
  perceiver::parse_config(text, "fuzz");
}

/// The first line is the file, every further line an override.
void read_overrides(const std::string& text) {
  std::vector<std::string> lines(1);
  for (const char c : text) {
    if (c == '\n') {
      lines.emplace_back();
    } else {
      lines.back() += c;
    }
  }
  const std::string file = lines[0];
  lines.erase(lines.begin());
  check_reread(perceiver::read_config(file, "fuzz", lines));
}

void read_json(const std::string& text) {
  const Config config = perceiver::config_from_json(text, "fuzz");
  check_reread(config);
  const std::string json = perceiver::config_to_json(config).dump();
  require(perceiver::config_to_json(perceiver::config_from_json(json, "reread")).dump() == json);
}

void read_model_json(const std::string& text) {
  const perceiver::ModelConfig model = perceiver::model_from_json(text, "fuzz");
  const std::string json = perceiver::model_to_json(model).dump();
  require(perceiver::model_to_json(perceiver::model_from_json(json, "reread")).dump() == json);
}

void read(char way, const std::string& text) {
  switch (way) {
    case 'o':
      return read_overrides(text);
    case 'j':
      return read_json(text);
    case 'm':
      return read_model_json(text);
    default:
      return read_yaml(text);
  }
}

/// Errors must fit on one line of a terminal.
void check_message(const std::string& message) {
  for (const char c : message) require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  try {
    read(static_cast<char>(data[0]), std::string(reinterpret_cast<const char*>(data) + 1, size - 1));
  } catch (const perceiver::Error& error) {
    check_message(error.what());
  }
  return 0;
}
