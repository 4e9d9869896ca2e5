#include "port/model_source.h"

#include <array>
#include <cstring>
#include <fstream>
#include <string_view>

#include "base/check.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/content_kind.h"
#include "io/file_content.h"
#include "io/json_document.h"
#include "io/safetensors.h"
#include "io/torch_file.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr uint64_t kMostConfiguration = 1 << 20;
constexpr const char* kConfiguration = "config.json";
/// Weights in a folder, the preferred first.
constexpr std::array<const char*, 5> kWeights{"model.safetensors", "pytorch_model.bin", "weights.safetensors",
                                              "model.pt", "model.ckpt"};

/// A safetensors file and its tensors, which refer to it.
class OpenSafetensors final : public TensorSource {
 public:
  explicit OpenSafetensors(SafetensorsFile file) : file_(std::move(file)), source_(file_) {}

  const SafetensorsFile& file() const { return file_; }
  const std::vector<SourceTensor>& tensors() const override { return source_.tensors(); }
  const std::string& source() const override { return source_.source(); }
  void read(const SourceTensor& tensor, std::span<double> out) const override { source_.read(tensor, out); }

 private:
  SafetensorsFile file_;
  SafetensorsSource source_;
};

std::string head_of(const fs::path& path) {
  std::ifstream input(path, std::ios::binary);
  if (!input) throw_user("{}: cannot be opened", path.string());
  std::string head(magic_bytes, '\0');
  input.read(head.data(), static_cast<std::streamsize>(head.size()));
  head.resize(static_cast<size_t>(input.gcount()));
  return head;
}

/// The length of a header, below 2^40, and the header.
bool is_safetensors(std::string_view head) {
  return head.size() > 8 && head.substr(5, 3) == std::string_view("\0\0\0", 3) && head[8] == '{';
}
/// A zip archive, or a pickle of protocol 2 or later.
bool is_torch(std::string_view head) {
  return head.starts_with("PK\x03\x04") || (head.starts_with("\x80") && head.size() > 1 && head[1] >= 2);
}

/// Hugging Face's configuration of a whole folder holds the model's own.
json unwrapped(json document) {
  if (document.is_object() && document.contains("model_config")) return document["model_config"];
  return document;
}

json read_configuration(const fs::path& path) {
  json document = unwrapped(parse_json_document(read_file(path, kMostConfiguration), path.string()));
  if (!document.is_object()) throw_user("{}: the configuration is not a JSON object", path.string());
  return document;
}

/// Whether a config.json that happens to lie beside the weights is of a model of one of these projects.
bool describes_model(const json& configuration) {
  for (const char* key : {"max_latents", "cross_attn_seq_len", "num_transformers_per_block", "clamp_len"})
    if (configuration.contains(key)) return true;
  return false;
}

void open_safetensors(ModelSource& source) {
  auto tensors = std::make_shared<OpenSafetensors>(SafetensorsFile::open(source.file));
  if (const std::string* text = tensors->file().find_metadata("config")) {
    source.configuration =
        unwrapped(parse_json_document(*text, source.file.string() + ": metadata 'config'"));
    source.configuration_from = "its metadata";
  }
  if (tensors->file().find_metadata("model") != nullptr &&
      tensors->file().find_metadata("format_version") != nullptr)
    throw_user("{}: is a model of this program already; it needs no import", source.file.string());
  source.tensors = std::move(tensors);
  source.kind = "safetensors file";
}

/// Numbers, texts and flags of a dict; null where the pickle has anything else.
json plain_values(const PickleValue& dict) {
  json values = json::object();
  for (const PickleEntry& entry : dict.entries) {
    if (entry.key->kind != PickleKind::string) continue;
    const std::string key = printable(entry.key->text);
    const PickleValue& value = *entry.value;
    if (value.kind == PickleKind::boolean) values[key] = value.integer != 0;
    if (value.kind == PickleKind::integer) values[key] = value.integer;
    if (value.kind == PickleKind::real) values[key] = value.real;
    if (value.kind == PickleKind::string) values[key] = printable(value.text);
  }
  return values;
}

void open_torch(ModelSource& source) {
  auto tensors = std::make_shared<TorchFile>(TorchFile::open(source.file));
  const PickleValue* parameters = find_entry(tensors->root(), "hyper_parameters");
  source.kind = find_entry(tensors->root(), "pytorch-lightning_version") != nullptr
                    ? "Lightning checkpoint"
                    : "file of pickled tensors";
  if (parameters != nullptr) {
    source.configuration = plain_values(*parameters);
    source.configuration_from = "its hyper_parameters";
  }
  source.tensors = std::move(tensors);
}

void open_file(ModelSource& source) {
  const std::string head = head_of(source.file);
  if (is_safetensors(head)) return open_safetensors(source);
  if (is_torch(head)) return open_torch(source);
  throw_user(
      "{}: is {}, not weights; expected a safetensors file, a file of PyTorch (.bin, .pt, .ckpt), "
      "or a folder with config.json and one of these",
      source.file.string(), content_kind(head));
}

fs::path weights_in(const fs::path& folder) {
  for (const char* name : kWeights)
    if (is_file(folder / name)) return folder / name;
  if (is_file(folder / "model.safetensors.index.json") || is_file(folder / "pytorch_model.bin.index.json"))
    throw_user("{}: its weights are divided among several files; save them as one (max_shard_size)",
               folder.string());
  fs::path only;
  int found = 0;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored)) {
    const std::string ending = entry.path().extension().string();
    if (ending != ".ckpt" && ending != ".pt" && ending != ".safetensors") continue;
    only = entry.path();
    ++found;
  }
  if (found == 1) return only;
  if (found > 1) throw_user("{}: holds {} files of weights; name one of them", folder.string(), found);
  throw_user(
      "{}: holds no weights; expected config.json with model.safetensors or pytorch_model.bin, "
      "or a .ckpt, .pt or .safetensors file",
      folder.string());
}

/// A SentencePiece model and the class of the tokenizer, as Hugging Face lays them out.
void find_tokenizer(ModelSource& source, const fs::path& folder) {
  for (const char* name : {"spiece.model", "tokenizer.model", "sentencepiece.model", "spm.model"})
    if (is_file(folder / name)) source.tokenizer = folder / name;
  const fs::path description = folder / "tokenizer_config.json";
  if (!is_file(description)) return;
  const json document = parse_json_document(read_file(description, kMostConfiguration), description.string());
  if (document.is_object() && document.contains("tokenizer_class") && document["tokenizer_class"].is_string())
    source.tokenizer_class = document["tokenizer_class"];
}

}  // namespace

ModelSource open_model_source(const fs::path& path, const fs::path& configuration) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) throw_user("{}: no such file or folder", path.string());
  const bool folder = fs::is_directory(path, ignored);
  ModelSource source;
  source.file = folder ? weights_in(path) : path;
  open_file(source);
  const fs::path beside = source.file.parent_path() / kConfiguration;
  if (!configuration.empty()) {
    source.configuration = read_configuration(configuration);
    source.configuration_from = configuration.string();
  } else if (source.configuration.is_null() && is_file(beside)) {
    json document = read_configuration(beside);
    if (describes_model(document)) {
      source.configuration = std::move(document);
      source.configuration_from = beside.string();
    }
  }
  if (folder && is_file(path / kConfiguration)) {
    source.kind = fmt::format("folder with {} and {}", kConfiguration, source.file.filename().string());
    find_tokenizer(source, path);
  }
  return source;
}

}  // namespace perceiver
