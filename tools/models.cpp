// perceiver models: the models that have a name.
#include <algorithm>
#include <fstream>

#include "io/safetensors.h"
#include "model/model_file.h"
#include "model/named_models.h"
#include "tools/commands.h"
#include "tools/output.h"

namespace perceiver::program {
namespace {

/// What the model's card (NAME.md beside it) says of it in its heading, "# chorale: four parts"; "" without
/// one.
std::string heading(const NamedModel& model) {
  std::string line;
  std::getline(std::ifstream(std::filesystem::path(model.file).replace_extension(".md")), line);
  const size_t colon = line.find(": ");
  return colon == std::string::npos ? "" : line.substr(colon + 2);
}

std::string modality(const NamedModel& model) {
  try {
    return read_metadata(SafetensorsFile::open(model.file)).modality;
  } catch (const Error&) {  // some other program's file
    return "?";
  }
}

std::string names(const std::vector<NamedModel>& models) {
  std::string out;
  for (const NamedModel& model : models) out += model.name + "\n";
  return out;
}

std::string table(const std::vector<NamedModel>& models) {
  size_t width = 4;
  for (const NamedModel& model : models) width = std::max(width, model.name.size());
  std::string out;
  for (const NamedModel& model : models)
    out += fmt::format("{:{}}  {:6}  {:4.1f} MB  {}\n", model.name, width, modality(model),
                       static_cast<double>(std::filesystem::file_size(model.file)) / 1e6, heading(model));
  return out;
}

std::string folders() {
  std::vector<std::string> all;
  for (const auto& folder : model_folders()) all.push_back(folder.string());
  return fmt::format("{}", fmt::join(all, ", "));
}

}  // namespace

void add_models(CLI::App& app, Globals&, Action& action) {
  struct Options {
    bool names = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("models", "List the models that have a name");
  command->add_flag("--names", options->names, "Only the names, one a line; nothing if there are none");
  command->footer(R"(Examples:
  perceiver models
  perceiver models --names
A name stands for a checkpoint wherever one is taken. It is that of a file NAME.safetensors in one of the folders in
the environment variable PERCEIVER_MODELS (separated by colons), or in those that come with the program.)");
  command->callback([options, &action] {
    action = [options] {
      const std::vector<NamedModel> models = named_models();
      if (models.empty() && !options->names) throw_user("no models; looked in {}", folders());
      print_now(options->names ? names(models) : table(models));
      return 0;
    };
  });
}

}  // namespace perceiver::program
