// Models of this library as files that other implementations load.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "model/model_file.h"

namespace perceiver {

struct ExportReport {
  std::vector<std::filesystem::path> files;
  std::vector<std::string> lost;  ///< what those files do not say, in words
};

/// Why `project` ("krasserm", "lucidrains", "official") cannot compute what the model computes, a reason
/// each; empty if it can.
std::vector<std::string> reasons_against_export(const LoadedModel& model, const std::string& project);

/// Writes krasserm and lucidrains a new folder (config.json, model.safetensors), official and safetensors a
/// file. Throws `user` with all reasons if the model cannot be expressed there, or if the folder exists.
ExportReport export_model(const LoadedModel& model, const std::string& project,
                          const std::filesystem::path& path);

}  // namespace perceiver
