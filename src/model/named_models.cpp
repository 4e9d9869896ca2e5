#include "model/named_models.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>

#include "base/check.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;

constexpr const char* kExtension = ".safetensors";
constexpr const char* kVariable = "PERCEIVER_MODELS";

/// The folder of the program or shared library that holds this function; empty if it cannot be told.
fs::path own_folder() {
  Dl_info info{};
  std::error_code ignored;
  fs::path file;
  // For code of the program itself dladdr gives the program's first argument, which may be a relative path.
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) != 0 && info.dli_fname != nullptr &&
      fs::path(info.dli_fname).is_absolute())
    file = fs::canonical(info.dli_fname, ignored);
  if (file.empty()) file = fs::read_symlink("/proc/self/exe", ignored);
  return file.parent_path();
}

std::vector<fs::path> folders_of_variable() {
  std::vector<fs::path> folders;
  const char* value = std::getenv(kVariable);
  std::string rest = value == nullptr ? "" : value;
  while (!rest.empty()) {
    const size_t colon = std::min(rest.find(':'), rest.size());
    if (colon > 0) folders.emplace_back(rest.substr(0, colon));
    rest.erase(0, colon + 1);
  }
  return folders;
}

std::vector<NamedModel> models_in(const fs::path& folder) {
  std::vector<NamedModel> models;
  std::error_code ignored;
  for (fs::directory_iterator entry(folder, ignored), end; !ignored && entry != end; entry.increment(ignored))
    if (entry->path().extension() == kExtension && entry->is_regular_file(ignored))
      models.push_back({entry->path().stem().string(), fs::canonical(entry->path())});
  return models;
}

}  // namespace

std::vector<fs::path> model_folders() {
  std::vector<fs::path> folders = folders_of_variable();
  const fs::path own = own_folder();
  if (own.empty()) return folders;
  folders.push_back(own / "models");
  // From bin/ or lib/, and from lib/x86_64-linux-gnu/.
  folders.push_back((own / "../share/perceiver/models").lexically_normal());
  folders.push_back((own / "../../share/perceiver/models").lexically_normal());
  return folders;
}

std::vector<NamedModel> named_models() {
  std::vector<NamedModel> models;
  for (const fs::path& folder : model_folders())
    for (NamedModel& model : models_in(folder)) models.push_back(std::move(model));
  // Stable: of two with the same name the first folder's stays.
  std::stable_sort(models.begin(), models.end(),
                   [](const NamedModel& a, const NamedModel& b) { return a.name < b.name; });
  const auto same = [](const NamedModel& a, const NamedModel& b) { return a.name == b.name; };
  models.erase(std::unique(models.begin(), models.end(), same), models.end());
  return models;
}

std::optional<NamedModel> find_named_model(const std::string& name) {
  if (name.empty() || name.find('/') != std::string::npos) return std::nullopt;
  for (NamedModel& model : named_models())
    if (model.name == name) return std::move(model);
  return std::nullopt;
}

fs::path path_or_named(const std::string& path) {
  std::error_code ignored;
  if (fs::exists(path, ignored)) return path;
  const std::optional<NamedModel> named = find_named_model(path);
  return named ? named->file : fs::path(path);
}

std::string list_named_models() {
  std::vector<std::string> names;
  for (const NamedModel& model : named_models()) names.push_back(model.name);
  if (names.empty())
    return fmt::format("; nor a model of that name: there are none (folders with models: {})", kVariable);
  return fmt::format("; the models that have a name: {}", fmt::join(names, ", "));
}

}  // namespace perceiver
