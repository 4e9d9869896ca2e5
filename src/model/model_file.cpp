#include "model/model_file.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "config/load.h"
#include "config/save.h"
#include "config/validate.h"
#include "core/read_tensor.h"
#include "io/file_content.h"
#include "kernels/dequantize.h"
#include "model/named_models.h"

namespace perceiver {
namespace {

/// What Hugging Face's tools require of a file of PyTorch tensors: names, shapes and layout are theirs.
constexpr const char* kFormat = "pt";
constexpr const char* kProducer = "perceiver";
constexpr const char* kOldFormat = "perceiver";  // before there was a producer
constexpr const char* kFormatVersion = "1";
constexpr const char* kWeights = "weights";  // the type of the linear layers' weights, unless it is F32
constexpr std::array kNarrowTypes{std::pair{"int8", DType::i8}, std::pair{"fp8", DType::e4m3}};
constexpr const char* kModelFile = "model.safetensors";
constexpr const char* kAverageFile = "ema.safetensors";

/// The weights in a checkpoint folder: their moving average if the run kept one. Empty if it is not a
/// checkpoint.
std::filesystem::path weights_in(const std::filesystem::path& folder) {
  if (is_file(folder / kAverageFile)) return folder / kAverageFile;
  if (is_file(folder / kModelFile)) return folder / kModelFile;
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

namespace {

void set_metadata(SafetensorsWriter& writer, const ModelMetadata& metadata) {
  writer.set_metadata("format", kFormat);
  writer.set_metadata("producer", kProducer);
  writer.set_metadata("format_version", kFormatVersion);
  writer.set_metadata("model", model_to_json(metadata.model).dump());
  writer.set_metadata("tokenizer", metadata.tokenizer);
  writer.set_metadata("modality", metadata.modality);
  writer.set_metadata("step", std::to_string(metadata.step));
  if (!metadata.run.empty()) writer.set_metadata("run", metadata.run);
  if (!metadata.sampling.empty()) writer.set_metadata("sampling", metadata.sampling);
}

void add_tensor(SafetensorsWriter& writer, const std::string& name, const Tensor& value) {
  writer.add(name, file_dtype(value.dtype()), value.shape().vector(),
             {static_cast<const std::byte*>(value.data()), value.bytes()});
}

/// The type of the file's linear weights if they have eight bits.
std::optional<DType> narrow_type(const SafetensorsFile& file) {
  const std::string* const weights = file.find_metadata(kWeights);
  if (weights == nullptr) return std::nullopt;
  for (const auto& [name, type] : kNarrowTypes)
    if (*weights == name) return type;
  throw_user("{}: its weights are of type '{}'; this program reads '{}' and '{}'", file.source(), *weights,
             kNarrowTypes[0].first, kNarrowTypes[1].first);
}

/// The numbers and scales of the file, besides their products, which are the weights by now.
void read_quantized(const SafetensorsFile& file, DType type, PerceiverAR& model) {
  model.allocate_quantized_weights(type);
  for (const ParameterInfo& info : model.parameters().infos()) {
    const NarrowWeight narrow = model.narrow_weight(info);
    if (!narrow.values) continue;
    if (file.find(info.name)->dtype != file_dtype(type))
      throw_user("{}: tensor {} is {}; {} is needed in a file of such weights", file.source(), info.name,
                 file.find(info.name)->dtype, file_dtype(type));
    read_tensor(file, info.name, info.shape, narrow.values);
    read_tensor(file, scale_name(info.name), narrow.scale.shape(), narrow.scale);
  }
  model.forget_wide_weights();
}

bool is_of_type(Weights weights, DType type) {
  return (weights == Weights::int8 && type == DType::i8) || (weights == Weights::fp8 && type == DType::e4m3);
}

/// The weights as they are in the file, unless others are asked for.
void narrow_weights(const SafetensorsFile& file, Weights weights, PerceiverAR& model) {
  const std::optional<DType> type = narrow_type(file);
  const bool as_in_file =
      type && (weights == Weights::automatic || is_of_type(weights, *type)) && model.can_quantize_weights();
  if (as_in_file) return read_quantized(file, *type, model);
  model.set_weights(weights);
}

}  // namespace

void add_model(SafetensorsWriter& writer, const PerceiverAR& model, const ModelMetadata& metadata,
               const Tensor& flat) {
  set_metadata(writer, metadata);
  PERCEIVER_ASSERT(flat.device().kind == DeviceKind::cpu);  // the writer keeps pointers
  for (const ParameterInfo& info : model.parameters().infos())
    add_tensor(writer, info.name, flat.view(info.offset, info.shape));
}

namespace {

/// With narrow weights where there are any. `held` keeps what the writer points to.
void add_quantized_model(SafetensorsWriter& writer, const PerceiverAR& model, const ModelMetadata& metadata,
                         std::vector<Tensor>& held) {
  set_metadata(writer, metadata);
  for (const auto& [name, type] : kNarrowTypes)
    if (model.weight_type() == type) writer.set_metadata(kWeights, name);
  const auto add = [&](const std::string& name, const Tensor& tensor) {
    held.push_back(tensor.on_host());
    add_tensor(writer, name, held.back());
  };
  for (const ParameterInfo& info : model.parameters().infos()) {
    const NarrowWeight narrow = model.narrow_weight(info);
    add(info.name, narrow.values ? narrow.values : model.parameters().value(info));
    if (narrow.values) add(scale_name(info.name), narrow.scale);
  }
}

}  // namespace

void save_model(const std::filesystem::path& path, const PerceiverAR& model, const ModelMetadata& metadata) {
  SafetensorsWriter writer;
  std::vector<Tensor> held;
  if (kernels::is_narrow(model.weight_type())) {
    add_quantized_model(writer, model, metadata, held);
  } else {
    held.push_back(model.parameters().values().on_host());
    add_model(writer, model, metadata, held.back());
  }
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
  if (const std::string* sampling = file.find_metadata("sampling")) metadata.sampling = *sampling;
  return metadata;
}

void read_parameters(const SafetensorsFile& file, PerceiverAR& model) {
  const ParameterStore& store = model.parameters();
  for (const ParameterInfo& info : store.infos()) read_tensor(file, info.name, info.shape, store.value(info));
  for (const SafetensorsEntry& entry : file.entries())
    if (store.find(entry.name) == nullptr && !is_scale(file, entry.name))
      throw_user("{}: the model has no tensor {}", file.source(), entry.name);
  store.publish();
}

LoadedModel load_model(const std::filesystem::path& path, std::shared_ptr<DeviceContext> context, DType type,
                       bool verify, Weights weights) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  if (verify) file.verify();
  LoadedModel loaded;
  loaded.metadata = read_metadata(file);
  loaded.model = std::make_unique<PerceiverAR>(loaded.metadata.model, std::move(context), type);
  read_parameters(file, *loaded.model);
  narrow_weights(file, weights, *loaded.model);
  return loaded;
}

std::filesystem::path find_model_file(const std::filesystem::path& named) {
  namespace fs = std::filesystem;
  const fs::path path = path_or_named(named.string());
  if (is_file(path)) return path;
  std::error_code ignored;
  if (!fs::exists(path, ignored)) throw_user("{}: no such checkpoint{}", path.string(), list_named_models());
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
