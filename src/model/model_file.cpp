#include "model/model_file.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/check.h"
#include "config/load.h"
#include "config/save.h"
#include "config/validate.h"
#include "core/read_tensor.h"

namespace perceiver {
namespace {

/// What Hugging Face's tools require of a file of PyTorch tensors: names, shapes and layout are theirs.
constexpr const char* kFormat = "pt";
constexpr const char* kProducer = "perceiver";
constexpr const char* kOldFormat = "perceiver";  // before there was a producer
constexpr const char* kFormatVersion = "1";
constexpr const char* kModelFile = "model.safetensors";
constexpr const char* kAverageFile = "ema.safetensors";

/// The weights in a checkpoint folder: their moving average if the run kept one. Empty if it is not a
/// checkpoint.
std::filesystem::path weights_in(const std::filesystem::path& folder) {
  std::error_code ignored;
  if (std::filesystem::is_regular_file(folder / kAverageFile, ignored)) return folder / kAverageFile;
  if (std::filesystem::is_regular_file(folder / kModelFile, ignored)) return folder / kModelFile;
  return {};
}

std::string required(const SafetensorsFile& file, const std::string& key) {
  const std::string* value = file.find_metadata(key);
  if (value == nullptr)
    throw_user(
        "{}: no '{}' in its metadata, so it is not a model file of this program; use `perceiver import` for "
        "other "
        "files",
        file.source(), key);
  return *value;
}

int64_t integer(const SafetensorsFile& file, const std::string& key, const std::string& text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0)
    throw_user("{}: metadata '{}' is '{}', not a count", file.source(), key, text);
  return value;
}

}  // namespace

void add_model(SafetensorsWriter& writer, const PerceiverAR& model, const ModelMetadata& metadata,
               const Tensor& flat) {
  writer.set_metadata("format", kFormat);
  writer.set_metadata("producer", kProducer);
  writer.set_metadata("format_version", kFormatVersion);
  writer.set_metadata("model", model_to_json(metadata.model).dump());
  writer.set_metadata("tokenizer", metadata.tokenizer);
  writer.set_metadata("modality", metadata.modality);
  writer.set_metadata("step", std::to_string(metadata.step));
  if (!metadata.run.empty()) writer.set_metadata("run", metadata.run);
  PERCEIVER_ASSERT(flat.device().kind == DeviceKind::cpu);  // the writer keeps pointers
  for (const ParameterInfo& info : model.parameters().infos()) {
    const Tensor value = flat.view(info.offset, info.shape);
    writer.add(info.name, file_dtype(flat.dtype()), info.shape.vector(),
               {static_cast<const std::byte*>(value.data()), value.bytes()});
  }
}

void save_model(const std::filesystem::path& path, const PerceiverAR& model, const ModelMetadata& metadata) {
  SafetensorsWriter writer;
  const Tensor values = model.parameters().values().on_host();
  add_model(writer, model, metadata, values);
  writer.write_atomically(path);
}

ModelMetadata read_metadata(const SafetensorsFile& file) {
  if (required(file, "format") != kOldFormat && required(file, "producer") != kProducer)
    throw_user("{}: its producer is not '{}'; use `perceiver import` for other files", file.source(),
               kProducer);
  if (const std::string version = required(file, "format_version"); version != kFormatVersion)
    throw_user("{}: format version {}; this program reads version {}", file.source(), version,
               kFormatVersion);
  ModelMetadata metadata;
  metadata.model = model_from_json(required(file, "model"), file.source());
  metadata.tokenizer = required(file, "tokenizer");
  metadata.modality = required(file, "modality");
  metadata.step = integer(file, "step", required(file, "step"));
  if (const std::string* run = file.find_metadata("run")) metadata.run = *run;
  return metadata;
}

void read_parameters(const SafetensorsFile& file, PerceiverAR& model) {
  const ParameterStore& store = model.parameters();
  for (const ParameterInfo& info : store.infos()) read_tensor(file, info.name, info.shape, store.value(info));
  for (const SafetensorsEntry& entry : file.entries())
    if (store.find(entry.name) == nullptr)
      throw_user("{}: the model has no tensor {}", file.source(), entry.name);
  store.publish();
}

LoadedModel load_model(const std::filesystem::path& path, std::shared_ptr<DeviceContext> context, DType type,
                       bool verify) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  if (verify) file.verify();
  LoadedModel loaded;
  loaded.metadata = read_metadata(file);
  loaded.model = std::make_unique<PerceiverAR>(loaded.metadata.model, std::move(context), type);
  read_parameters(file, *loaded.model);
  return loaded;
}

std::filesystem::path find_model_file(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (fs::is_regular_file(path, ignored)) return path;
  if (!fs::exists(path, ignored)) throw_user("{}: no such checkpoint", path.string());
  if (const fs::path own = weights_in(path); !own.empty()) return own;
  const fs::path checkpoints = path / "checkpoints";
  if (const fs::path best = weights_in(checkpoints / "best"); !best.empty()) return best;
  fs::path newest;
  if (fs::is_directory(checkpoints, ignored)) {
    for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints)) {
      const std::string name = entry.path().filename().string();
      const bool complete = name.starts_with("step-") && name.find(".tmp") == std::string::npos;
      if (complete && !weights_in(entry.path()).empty()) newest = std::max(newest, entry.path());
    }
  }
  if (newest.empty())
    throw_user("{}: holds no {} and no checkpoints/step-*/{}; is it a run or checkpoint folder?",
               path.string(), kModelFile, kModelFile);
  return weights_in(newest);
}

}  // namespace perceiver
