#include "data/data_paths.h"

#include <filesystem>

#include "data/modality.h"

namespace perceiver {
namespace {

void make_absolute(std::string& path) {
  if (!path.empty()) path = std::filesystem::absolute(path).lexically_normal().string();
}

}  // namespace

void absolute_paths(DataConfig& config) {
  for (std::vector<std::string>* paths : {&config.train, &config.validation, &config.test})
    for (std::string& path : *paths) make_absolute(path);
  if (config.type == "copy") return;
  for (const ModalityOption& option : find_modality(config.type).options) {
    const auto given = config.options.find(std::string(option.name));
    if (option.is_path && given != config.options.end() && given->second != option.default_value)
      make_absolute(given->second);
  }
}

}  // namespace perceiver
