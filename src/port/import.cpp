#include "port/import.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "base/plural.h"
#include "config/load.h"
#include "config/validate.h"
#include "data/text/sentencepiece_tokenizer.h"
#include "io/atomic_file.h"
#include "perceiver/experimental/host_values.h"
#include "port/model_source.h"

namespace perceiver {
namespace {

constexpr const char* kGradient = "grad/";  // of golden files

/// What stands before the names of a dialect's tensors in this file ("model.", "net.", …); nullptr if it is
/// of another.
std::unique_ptr<ModelTensors> tensors_of(const Dialect& dialect, const ModelSource& source) {
  const std::string* found = nullptr;
  for (const SourceTensor& tensor : source.tensors->tensors()) {
    if (!tensor.name.ends_with(dialect.marker) || tensor.name.starts_with(kGradient)) continue;
    if (found == nullptr || tensor.name.size() < found->size()) found = &tensor.name;
  }
  if (found == nullptr) return nullptr;
  return std::make_unique<ModelTensors>(source.tensors,
                                        found->substr(0, found->size() - dialect.marker.size()));
}

struct Recognised {
  const Dialect* dialect;
  std::unique_ptr<ModelTensors> tensors;
};

Recognised recognise(const ModelSource& source, const std::string& from) {
  std::vector<std::string> markers;
  for (const Dialect* dialect : dialects()) {
    if (!from.empty() && dialect->name != from) continue;
    if (auto tensors = tensors_of(*dialect, source)) return {dialect, std::move(tensors)};
    markers.push_back(fmt::format("{} ({})", dialect->marker, dialect->project));
  }
  if (!from.empty()) find_dialect(from);
  throw_user("{}: no tensor of a known project; looked for {}", source.file.string(),
             fmt::join(markers, ", "));
}

/// Tokenizers of Hugging Face whose ids are those of the SentencePiece model.
bool keeps_piece_ids(const std::string& tokenizer_class) {
  for (const char* kept : {"T5Tokenizer", "XLNetTokenizer", "AlbertTokenizer", "LlamaTokenizer",
                           "ReformerTokenizer", "BigBirdTokenizer"})
    if (tokenizer_class.starts_with(kept)) return true;
  return tokenizer_class.empty();
}

/// A SentencePiece model of at most as many pieces as the vocabulary has ids makes them text.
void use_tokenizer(ImportedModel& imported, const ModelSource& source, const ImportOptions& options) {
  const bool given = !options.tokenizer.empty();
  const std::filesystem::path path = given ? options.tokenizer : source.tokenizer;
  if (imported.vocabulary.modality != "tokens") {
    if (given)
      throw_user("{}: the ids of this model are known ({}); leave out --tokenizer", path.string(),
                 imported.vocabulary.modality);
    return;
  }
  if (path.empty()) {
    imported.lost.push_back(
        "the tokenizer, which is not in the file: ids are numbers (--tokenizer MODEL names a "
        "SentencePiece model)");
    return;
  }
  const auto tokenizer = SentencePieceTokenizer::from_model(
      read_file(path, SentencePieceTokenizer::max_model_bytes), path.string());
  const int64_t pieces = tokenizer->vocabulary() - special_tokens, ids = imported.vocabulary.size;
  const bool fits =
      given ? pieces <= ids : pieces == ids || (pieces < ids && !source.tokenizer_class.empty());
  if (given && !fits) throw_user("{}: {} pieces, but the model has {} ids", path.string(), pieces, ids);
  if (!given && (!fits || !keeps_piece_ids(source.tokenizer_class))) {
    imported.lost.push_back(fmt::format("the tokenizer {} ({} pieces, {}), whose ids are not the pieces'",
                                        path.filename().string(), pieces, source.tokenizer_class));
    return;
  }
  imported.vocabulary.modality = "text";
  imported.vocabulary.tokenizer = tokenizer->serialized();
}

void check_shapes(const ImportedModel& imported, const ModelTensors& tensors) {
  for (const TensorMap& map : imported.tensors) {
    if (map.theirs.empty()) continue;
    const SourceTensor& tensor = tensors.get(map.theirs);
    const std::vector<int64_t> expected =
        their_shape(map, imported.model->parameters().find(map.ours)->shape);
    if (tensor.shape != expected)
      throw_user("{}: {} has shape [{}], but the configuration requires [{}]", tensors.source(), tensor.name,
                 fmt::join(tensor.shape, ", "), fmt::join(expected, ", "));
  }
}

/// Notes a tensor's other names, which must hold the same values.
void use_repeated(const ImportedModel& imported, const ModelTensors& tensors,
                  std::set<std::string, std::less<>>& used) {
  if (imported.dialect->repeated == nullptr) return;
  for (const RepeatedTensor& repeated : imported.dialect->repeated(imported.model->config())) {
    if (tensors.all().count(repeated.name) == 0) continue;
    if (tensors.values(repeated.name) != tensors.values(repeated.original))
      throw_user("{}: {} differs from {}, which it must repeat", tensors.source(), repeated.name,
                 repeated.original);
    used.insert(repeated.name);
  }
}

/// A tensor that nothing reads means that the model computes something else.
void check_all_used(const ImportedModel& imported, const ModelTensors& tensors) {
  std::set<std::string, std::less<>> used;
  for (const TensorMap& map : imported.tensors) used.insert(map.theirs);
  for (const DerivedTensor& tensor : imported.dialect->derived(imported.model->config()))
    used.insert(tensor.name);
  use_repeated(imported, tensors, used);
  for (const auto& [name, tensor] : tensors.all())
    if (used.count(name) == 0)
      throw_user("{}: {} has no counterpart in a model of {}", tensors.source(), tensor->name,
                 imported.dialect->project);
}

void read_values(const ImportedModel& imported, const ModelTensors& tensors) {
  const ParameterStore& store = imported.model->parameters();
  for (const TensorMap& map : imported.tensors) {
    const ParameterInfo& info = *store.find(map.ours);
    const std::vector<double> theirs =
        map.theirs.empty() ? std::vector<double>() : tensors.values(map.theirs);
    const std::vector<double> values = gather(map, info.shape, theirs);
    fill(store.value(info), [&](int64_t i) { return values[static_cast<size_t>(i)]; });
  }
  store.publish();
}

}  // namespace

ImportedModel import_model(const std::filesystem::path& path, const ImportOptions& options,
                           std::shared_ptr<DeviceContext> context, DType type) {
  const ModelSource source = open_model_source(path, options.configuration);
  const Recognised recognised = recognise(source, options.from);
  const ModelTensors& tensors = *recognised.tensors;
  ImportedModel imported;
  imported.dialect = recognised.dialect;
  imported.source = fmt::format("{} of {}", source.kind, recognised.dialect->project);
  imported.configuration_from = source.configuration_from;
  const nlohmann::json configuration =
      imported.dialect->complete(source.configuration, tensors, options.given, imported.inferred);
  PortedModel ported = imported.dialect->model(configuration, tensors.source());
  imported.vocabulary = std::move(ported.vocabulary);
  imported.lost = std::move(ported.lost);
  if (const size_t others = source.tensors->tensors().size() - tensors.all().size(); others > 0)
    imported.lost.push_back(
        fmt::format("{} that are not the model's, such as an optimizer's state", counted(others, "tensor")));
  use_tokenizer(imported, source, options);

  ModelConfig& config = imported.metadata.model = ported.config;
  resolve(config);
  Config whole;
  whole.model = config;
  check_values(whole, tensors.source());
  validate(config, tensors.source());
  imported.metadata.modality = imported.vocabulary.modality;
  imported.metadata.tokenizer = imported.vocabulary.tokenizer;
  imported.model = std::make_unique<PerceiverAR>(config, std::move(context), type);
  imported.tensors = imported.dialect->tensors(*imported.model, imported.vocabulary, configuration);
  check_shapes(imported, tensors);
  check_all_used(imported, tensors);
  read_values(imported, tensors);
  return imported;
}

}  // namespace perceiver
