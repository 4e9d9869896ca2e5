// Models that have a name: NAME.safetensors in one of a few folders, such as those that come with the
// program.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace perceiver {

struct NamedModel {
  std::string name;            ///< "chorale"
  std::filesystem::path file;  ///< absolute, without links: ".../chorale.safetensors"
};

/// The folders that are looked in, in this order: those of the environment variable PERCEIVER_MODELS
/// (separated by colons), models/ beside the program or the shared library (in a build folder a link to that
/// of the sources), share/perceiver/models of the prefix that they are installed in. Some may not exist.
std::vector<std::filesystem::path> model_folders();

/// All named models, by name; where two folders have the same name, that of the first.
std::vector<NamedModel> named_models();

/// The model of that name. None for what is no name but a path, with a slash.
std::optional<NamedModel> find_named_model(const std::string& name);

/// `path` itself if there is such a file or folder, else the file of the model of that name, else `path`.
std::filesystem::path path_or_named(const std::string& path);

/// For messages: "; the models that have a name: books, chorale", or what to do if there are none.
std::string list_named_models();

}  // namespace perceiver
