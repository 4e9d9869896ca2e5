#include "port/export.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "config/save.h"
#include "data/text/byte_tokenizer.h"
#include "io/atomic_folder.h"
#include "io/safetensors.h"
#include "perceiver/experimental/host_values.h"
#include "perceiver/special_tokens.h"
#include "port/comparable_config.h"
#include "port/dialect.h"

namespace perceiver {
namespace {

using nlohmann::json;

constexpr const char* kEmbedding = "token_embedding.weight";
constexpr const char* kBias = "output.linear.bias";

std::vector<double> values_of(const PerceiverAR& model, const char* name) {
  const ParameterInfo* info = model.parameters().find(name);
  return info == nullptr ? std::vector<double>() : host_doubles(model.parameters().value(*info));
}

/// Whether an id is still as an import makes one that does not exist there: nothing was learnt about it.
bool is_unused(const PerceiverAR& model, size_t id) {
  const std::vector<double> bias = values_of(model, kBias);
  if (bias.empty() || bias[id] != kNeverLogit) return false;
  const ParameterInfo& embedding = *model.parameters().find(kEmbedding);
  const int64_t channels = model.config().input_channels, first = static_cast<int64_t>(id) * channels;
  const std::vector<double> row = host_doubles(model.parameters().value(embedding).view(first, {channels}));
  return std::all_of(row.begin(), row.end(), [](double value) { return value == 0; });
}

bool specials_unused(const PerceiverAR& model) {
  return is_unused(model, pad_token) && is_unused(model, eos_token) && is_unused(model, sos_token);
}

VocabularyMap vocabulary_for(const Dialect& dialect, const LoadedModel& loaded) {
  const int64_t ids = loaded.metadata.model.vocabulary;
  const std::string& modality = loaded.metadata.modality;
  const bool bytes = modality == "text" && loaded.metadata.tokenizer == ByteTokenizer::kind;
  if (&dialect == &krasserm_dialect && bytes && ids >= byte_vocabulary) return perceiver_io_bytes(ids);
  if (&dialect == &krasserm_dialect && modality == "music") {
    VocabularyMap map = piano_events();
    if (map.ours() <= ids) map.theirs.resize(static_cast<size_t>(ids), -1);
    if (map.ours() == ids) return map;
  }
  if (&dialect == &official_dialect || !specials_unused(*loaded.model))
    return same_ids(modality, loaded.metadata.tokenizer, ids);
  return bytes && ids == byte_vocabulary ? plain_bytes() : plain_tokens(ids - special_tokens);
}

/// A model in another implementation's terms.
struct Translation {
  const Dialect& dialect;
  VocabularyMap vocabulary;
  json configuration;
  ModelConfig config;  ///< what their configuration means here
  std::vector<std::string> reasons;
};

/// Whether the last layer needs a bias there: it has one, or ids there do not exist here.
bool needs_bias(const PerceiverAR& model, const VocabularyMap& vocabulary) {
  const std::vector<int64_t> ours = vocabulary.inverse();
  if (std::any_of(ours.begin(), ours.end(), [](int64_t id) { return id < 0; })) return true;
  const std::vector<double> bias = values_of(model, kBias);
  for (size_t id = 0; id < bias.size(); ++id)
    if (vocabulary.theirs[id] >= 0 && bias[id] != 0) return true;
  return false;
}

Translation translate(const LoadedModel& loaded, const std::string& project) {
  const Dialect& dialect = find_dialect(project);
  Translation translation{dialect, vocabulary_for(dialect, loaded), {}, {}, {}};
  ModelConfig ours = loaded.metadata.model;
  // Other differences follow from this one.
  if (ours.recurrent() != (&dialect == &transfo_xl_dialect)) {
    translation.reasons.push_back(ours.recurrent() ? "model.type is transformer_xl"
                                                   : "model.type is not transformer_xl");
    return translation;
  }
  const bool biased = needs_bias(*loaded.model, translation.vocabulary);
  if (&dialect != &official_dialect) ours.output_bias = biased;
  translation.configuration = dialect.configuration(ours, translation.vocabulary);
  try {
    translation.config = dialect.model(translation.configuration, project).config;
  } catch (const Error& error) {
    translation.reasons.push_back(error.what());
    return translation;
  }
  translation.reasons = differences(ours, translation.config, std::string(dialect.project));
  if (&dialect == &lucidrains_dialect && biased)
    translation.reasons.push_back(fmt::format("the last layer has a bias; {} has none", dialect.project));
  if (&dialect == &official_dialect && !ours.output_bias)
    translation.reasons.push_back(fmt::format("model.output_bias is false; {} has one", dialect.project));
  return translation;
}

/// Tensors that are written, as float32.
class TensorFile {
 public:
  void add(const std::string& name, std::vector<int64_t> shape, const std::vector<double>& values) {
    Stored& stored = tensors_[name];
    stored.shape = std::move(shape);
    stored.values.assign(values.begin(), values.end());
  }
  SafetensorsWriter writer(const std::string& prefix) const {
    SafetensorsWriter writer;
    writer.set_metadata("format", "pt");
    for (const auto& [name, stored] : tensors_)
      writer.add(prefix + name, "F32", stored.shape, std::as_bytes(std::span(stored.values)));
    return writer;
  }

 private:
  struct Stored {
    std::vector<int64_t> shape;
    std::vector<float> values;
  };
  std::map<std::string, Stored> tensors_;
};

/// Their tensors; several parameters may be parts of one.
TensorFile their_tensors(const PerceiverAR& model, const Translation& translation) {
  struct Packed {
    std::vector<int64_t> shape;
    std::vector<double> values;
  };
  std::map<std::string, Packed> all;
  const auto place = [&](const std::string& name, std::vector<int64_t> shape, double rest) -> Packed& {
    Packed& packed = all[name];
    int64_t elements = 1;
    for (const int64_t extent : shape) elements *= extent;
    if (packed.shape.empty()) packed.values.assign(static_cast<size_t>(elements), rest);
    packed.shape = std::move(shape);
    return packed;
  };
  const VocabularyMap& vocabulary = translation.vocabulary;
  for (const TensorMap& map : translation.dialect.tensors(model, vocabulary, translation.configuration)) {
    if (map.theirs.empty()) continue;
    const ParameterInfo& info = *model.parameters().find(map.ours);
    Packed& packed = place(map.theirs, their_shape(map, info.shape), map.ours == kBias ? kNeverLogit : 0.0);
    scatter(map, info.shape, host_doubles(model.parameters().value(info)), packed.values);
  }
  // A bias that is there only for ids that do not exist here.
  if (translation.configuration.value("output_bias", false) && model.parameters().find(kBias) == nullptr) {
    Packed& packed = place("output_adapter.bias", {vocabulary.size}, kNeverLogit);
    for (const int64_t id : vocabulary.theirs)
      if (id >= 0) packed.values[static_cast<size_t>(id)] = 0;
  }
  TensorFile file;
  for (auto& [name, packed] : all) file.add(name, packed.shape, packed.values);
  for (const DerivedTensor& tensor : translation.dialect.derived(translation.config))
    file.add(tensor.name, tensor.shape, tensor.values);
  return file;
}

json hugging_face(const json& configuration, bool music) {
  return {{"architectures", {music ? "PerceiverSymbolicAudioModel" : "PerceiverCausalLanguageModel"}},
          {"is_decoder", true},
          {"model_config", configuration},
          {"model_type", music ? "perceiver-ar-symbolic-audio-model" : "perceiver-ar-causal-language-model"},
          {"torch_dtype", "float32"}};
}

ExportReport write_folder(const SafetensorsWriter& writer, const json& configuration,
                          const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored))
    throw_user("{}: exists already; name a new folder", path.string());
  AtomicFolder folder(path);
  folder.write_file("config.json", configuration.dump(2) + "\n");
  OutputFile file = folder.create_file("model.safetensors");
  writer.write(file);
  file.finish();
  folder.commit();
  return {{path / "config.json", path / "model.safetensors"}, {}};
}

ExportReport write_plain(const LoadedModel& loaded, const std::filesystem::path& path) {
  TensorFile file;
  for (const ParameterInfo& info : loaded.model->parameters().infos())
    file.add(info.name, info.shape.vector(), host_doubles(loaded.model->parameters().value(info)));
  SafetensorsWriter writer = file.writer("");
  writer.set_metadata("config", model_to_json(loaded.metadata.model).dump());
  writer.set_metadata("tokenizer", loaded.metadata.tokenizer);
  writer.set_metadata("modality", loaded.metadata.modality);
  writer.write_atomically(path);
  return {{path}, {}};
}

std::vector<std::string> lost_in(const LoadedModel& loaded, const Translation& translation) {
  std::vector<std::string> lost;
  std::string ids;
  const char* const names[] = {"PAD", "EOS", "SOS"};
  for (size_t id = 0; id < special_tokens; ++id)
    if (translation.vocabulary.theirs[id] < 0 && !is_unused(*loaded.model, id))
      ids += (ids.empty() ? "" : ", ") + std::string(names[id]);
  if (!ids.empty()) lost.push_back("the ids " + ids + ", which do not exist there");
  if (loaded.metadata.modality == "text" && loaded.metadata.tokenizer != ByteTokenizer::kind)
    lost.push_back("the tokenizer");
  return lost;
}

}  // namespace

std::vector<std::string> reasons_against_export(const LoadedModel& model, const std::string& project) {
  return translate(model, project).reasons;
}

ExportReport export_model(const LoadedModel& loaded, const std::string& project,
                          const std::filesystem::path& path) {
  if (project == "safetensors") return write_plain(loaded, path);
  const Translation translation = translate(loaded, project);
  if (!translation.reasons.empty())
    throw_user("{} cannot express this model: {}", translation.dialect.project,
               fmt::join(translation.reasons, "; "));
  const TensorFile file = their_tensors(*loaded.model, translation);
  ExportReport report;
  if (&translation.dialect == &krasserm_dialect) {
    report = write_folder(file.writer("backend_model."),
                          hugging_face(translation.configuration, loaded.metadata.modality == "music"), path);
  } else if (&translation.dialect == &lucidrains_dialect || &translation.dialect == &transfo_xl_dialect) {
    report = write_folder(file.writer(""), translation.configuration, path);
  } else {
    SafetensorsWriter writer = file.writer("param/");
    writer.set_metadata("config", translation.configuration.dump());
    writer.write_atomically(path);
    report = {{path}, {}};
  }
  report.lost = lost_in(loaded, translation);
  return report;
}

}  // namespace perceiver
