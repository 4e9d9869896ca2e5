#include "port/official.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "config/validate.h"
#include "io/json_document.h"
#include "model/positions.h"
#include "perceiver/experimental/host_values.h"

namespace perceiver {
namespace {

using nlohmann::json;

/// Typed access to the authors' configuration, with errors that name the key.
class Keys {
 public:
  Keys(const json& object, std::string source) : object_(object), source_(std::move(source)) {}

  template <typename T>
  T get(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) throw_user("{}: the configuration lacks '{}'", source_, key);
    return convert<T>(key, *found);
  }
  template <typename T>
  T get(const char* key, T fallback) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? fallback : convert<T>(key, *found);
  }
  template <typename T>
  T choice(const char* key, const std::vector<std::pair<std::string, T>>& values) const {
    const auto name = get<std::string>(key);
    for (const auto& [text, value] : values)
      if (text == name) return value;
    throw_user("{}: '{}' is '{}', which this program does not know", source_, key, name);
  }

 private:
  template <typename T>
  T convert(const char* key, const json& value) const {
    try {
      return value.get<T>();
    } catch (const json::exception&) {
      throw_user("{}: '{}' has the wrong type: {}", source_, key, value.dump());
    }
  }

  const json& object_;
  std::string source_;
};

const std::vector<std::pair<std::string, Activation>> kActivations{{"sq_relu", Activation::squared_relu},
                                                                   {"gelu", Activation::gelu},
                                                                   {"silu", Activation::silu},
                                                                   {"swish", Activation::silu},
                                                                   {"relu", Activation::relu}};

void read_positions(const Keys& keys, ModelConfig& model) {
  model.position_encoding = keys.choice<PositionEncoding>(
      "position_encoding_type",
      {{"rotary", PositionEncoding::rotary}, {"absolute", PositionEncoding::absolute}});
  const bool negated = keys.get<bool>("use_negative_rotary_positions", false) &&
                       model.position_encoding == PositionEncoding::rotary;
  model.position_source = keys.get<bool>("use_positions_from_data") ? PositionSource::data
                          : negated ? PositionSource::terminal_relative_negated
                                    : PositionSource::terminal_relative;
  if (model.position_encoding == PositionEncoding::rotary) {
    model.rotary_fraction = keys.get<double>("fraction_to_rotate");
    model.rotary_head_fraction = keys.get<double>("fraction_heads_to_rotate", 1.0);
    model.max_wavelength = keys.get<double>("max_wavelength", 0.0);
    return;
  }
  model.learnable_positions = keys.get<bool>("learnable_position_embeddings", false);
  model.position_table =
      keys.choice<PositionTable>("position_encoding", {{"sinusoidal", PositionTable::sinusoidal},
                                                       {"fourier", PositionTable::fourier},
                                                       {"random", PositionTable::random}});
  if (model.position_table == PositionTable::random && model.learnable_positions)
    model.position_table = PositionTable::learned;
  model.position_sizes = keys.get<std::vector<int64_t>>("input_idx_size");
  for (int64_t& size : model.position_sizes)
    if (size == -1) size = model.context_length;
}

void read_queries(const Keys& keys, ModelConfig& model) {
  model.query_offset = keys.get<bool>("initial_query_offsetting", false);
  model.query_style = keys.choice<QueryStyle>(
      "initial_query_embed_style",
      {{"none", QueryStyle::none}, {"mlp", QueryStyle::mlp}, {"learned", QueryStyle::learned}});
  model.shared_learned_query =
      model.query_style == QueryStyle::learned && keys.get<bool>("share_learned_initial_query", false);
  model.query_mlp_layers = keys.get<int64_t>("initial_query_embed_num_layers", 2);
  if (model.query_style == QueryStyle::mlp)
    model.query_activation = keys.choice("initial_query_embed_activation_name", kActivations);
}

/// Haiku's name for the n-th module called `name` in a scope.
std::string numbered(const std::string& name, size_t n) {
  return n == 0 ? name : name + "_" + std::to_string(n);
}

class Namer {
 public:
  explicit Namer(const PerceiverAR& model) : model_(model) {}

  std::vector<OfficialName> names() {
    for (const ParameterInfo& info : model_.parameters().infos())
      names_.push_back({info.name, theirs(info.name), is_linear(info)});
    return names_;
  }

 private:
  static bool is_linear(const ParameterInfo& info) {
    return info.shape.rank() == 2 && info.name.ends_with(".weight") &&
           info.name.find("embedding") == std::string::npos;
  }
  std::string theirs(const std::string& ours) const {
    const std::string root = "perceiver_ar/", inner = root + "~/";
    if (ours == "token_embedding.weight") return inner + "embed/embeddings";
    if (ours == "query.learned") return root + "q_embed_learned";
    if (ours == "query.index_encoding") return inner + "z_pos_enc/pos_embs";
    const auto part = ours.substr(0, ours.find('.'));
    const auto rest = ours.substr(part.size() + 1);
    if (part == "position_embedding") return inner + numbered("embed", 1 + number(rest)) + "/embeddings";
    // The MLP of the queries is built before Linear_z, so it takes the first names.
    if (rest.starts_with("mlp.") && part == "query")
      return inner + numbered("linear", number(rest.substr(4))) + leaf(rest);
    if (part == "query") return inner + numbered("linear", mlp_layers()) + leaf(rest);
    if (part == "output")
      return rest.starts_with("norm") ? root + "layer_norm" + leaf(rest) : inner + "logits" + leaf(rest);
    const std::string block =
        inner + numbered(part == "cross" ? "cross_attention" : "self_attention", number(rest)) + "/";
    return block + inside_block(part == "cross", rest.substr(rest.find('.') + 1)) + leaf(rest);
  }
  size_t mlp_layers() const {
    return model_.config().query_style == QueryStyle::mlp
               ? static_cast<size_t>(model_.config().query_mlp_layers)
               : 0;
  }
  static size_t number(const std::string& text) { return std::stoul(text); }
  static std::string leaf(const std::string& name) {
    if (name.ends_with(".weight")) return "/w";
    if (name.ends_with(".bias")) return "/b";
    return "/" + name.substr(name.rfind('.') + 1);
  }
  static std::string inside_block(bool cross, const std::string& name) {
    if (name.starts_with("norm_mlp")) return numbered("layer_norm", cross ? 2 : 1);
    if (name.starts_with("norm_kv")) return "layer_norm_1";
    if (name.starts_with("norm")) return "layer_norm";
    if (name.starts_with("mlp.")) return "dense/" + numbered("linear", number(name.substr(4)));
    const std::vector<std::string> order{"attention.q.", "attention.k.", "attention.v.", "attention.out."};
    for (size_t i = 0; i < order.size(); ++i)
      if (name.starts_with(order[i])) return "attention/" + numbered("linear", i);
    throw_failure("internal error: no official name for {}", name);
  }

  const PerceiverAR& model_;
  std::vector<OfficialName> names_;
};

/// Whether the file's copy of a fixed table, if any, agrees with the formula.
bool agrees_with_formula(const SafetensorsFile& file, const ModelConfig& config, size_t axis) {
  const std::string name = "perceiver_ar/~/" + numbered("embed", axis + 1) + "/embeddings";
  if (file.find("param/" + name) == nullptr) return true;
  const std::vector<double> table = official_tensor(file, name, false);
  const int64_t size = config.position_sizes[axis], channels = config.input_channels;
  if (static_cast<int64_t>(table.size()) != size * channels)
    throw_user("{}: {} has the wrong size", file.source(), name);
  for (size_t i = 0; i < table.size(); ++i) {
    const auto element = static_cast<int64_t>(i);
    const double expected =
        position_table_value(config.position_table, size, channels, element / channels, element % channels);
    if (std::abs(table[i] - expected) > 1e-4) return false;
  }
  return true;
}

/// The authors store fixed tables among the parameters, so a file may hold other values than the formula's;
/// those are then kept, untrained.
void keep_stored_tables(const SafetensorsFile& file, ModelConfig& config) {
  const bool formula =
      config.position_table == PositionTable::sinusoidal || config.position_table == PositionTable::fourier;
  if (config.position_encoding != PositionEncoding::absolute || !formula || config.learnable_positions)
    return;
  for (size_t axis = 0; axis < config.position_sizes.size(); ++axis) {
    if (agrees_with_formula(file, config, axis)) continue;
    config.position_table = PositionTable::random;
    return;
  }
}

}  // namespace

ModelConfig official_config(const std::string& text, const std::string& source) {
  const json object = parse_json_document(text, source);
  if (!object.is_object()) throw_user("{}: 'config' is not a JSON object", source);
  const Keys keys(object, source);
  ModelConfig model;
  model.type = keys.get<bool>("include_initial_cross_attention", true) ? ModelType::perceiver_ar
                                                                       : ModelType::transformer;
  model.vocabulary = keys.get<int64_t>("vocab_size");
  model.context_length = keys.get<int64_t>("max_context_length");
  model.latents = keys.get<int64_t>("z_index_dim");
  model.latents_per_position = keys.get<int64_t>("num_latents_per_position", 1);
  model.input_channels = keys.get<int64_t>("input_embed_dim");
  model.latent_channels = keys.get<int64_t>("num_z_channels");
  model.layers = keys.get<int64_t>("num_transformers_per_block");
  model.cross_heads = keys.get<int64_t>("num_cross_attend_heads");
  model.self_heads = keys.get<int64_t>("num_transformer_heads");
  model.cross_widening = keys.get<int64_t>("cross_attend_widening_factor");
  model.self_widening = keys.get<int64_t>("transformer_widening_factor");
  model.activation = keys.choice("activation_name", kActivations);
  model.attention_width = keys.choice<AttentionWidth>("cross_attention_shape_for_attn",
                                                      {{"kv", AttentionWidth::kv}, {"q", AttentionWidth::q}});
  model.query_residual = keys.get<bool>("encoder_use_query_residual", true);
  model.extra_cross_attention_after =
      keys.get<std::vector<int64_t>>("additional_cross_attend_after_layers", {});
  model.residual_dropout = 0;
  read_positions(keys, model);
  read_queries(keys, model);
  resolve(model);
  validate(model, source);
  return model;
}

std::vector<OfficialName> official_names(const PerceiverAR& model) {
  return Namer(model).names();
}

std::vector<double> official_tensor(const SafetensorsFile& file, const std::string& name, bool transposed) {
  const SafetensorsEntry* entry = file.find(name.starts_with("grad/") ? name : "param/" + name);
  if (entry == nullptr) throw_user("{}: tensor param/{} is missing", file.source(), name);
  if (entry->dtype != "F32")
    throw_user("{}: tensor {} is {}, not F32", file.source(), entry->name, entry->dtype);
  const std::span<const std::byte> bytes = file.bytes(*entry);
  std::vector<float> values(bytes.size() / sizeof(float));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  std::vector<double> result(values.begin(), values.end());
  if (!transposed) return result;
  if (entry->shape.size() != 2) throw_user("{}: tensor {} is not a matrix", file.source(), entry->name);
  const auto rows = static_cast<size_t>(entry->shape[0]), columns = static_cast<size_t>(entry->shape[1]);
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < columns; ++c) result[c * rows + r] = values[r * columns + c];
  return result;
}

std::unique_ptr<PerceiverAR> import_official(const SafetensorsFile& file,
                                             std::shared_ptr<DeviceContext> context, DType type) {
  const std::string* text = file.find_metadata("config");
  if (text == nullptr)
    throw_user("{}: no 'config' in the metadata; it must hold the authors' configuration as JSON",
               file.source());
  ModelConfig config = official_config(*text, file.source());
  keep_stored_tables(file, config);
  auto model = std::make_unique<PerceiverAR>(config, std::move(context), type);
  const ParameterStore& store = model->parameters();
  for (const OfficialName& name : official_names(*model)) {
    const ParameterInfo& info = *store.find(name.ours);
    const std::vector<double> values = official_tensor(file, name.theirs, name.transposed);
    const SafetensorsEntry& entry = *file.find("param/" + name.theirs);
    std::vector<int64_t> shape = entry.shape;
    if (name.transposed) std::swap(shape[0], shape[1]);
    if (shape != info.shape.vector())
      throw_user("{}: {} has shape [{}], but the configuration requires {}", file.source(), entry.name,
                 fmt::join(shape, ", "), info.shape.text());
    fill(store.value(info), [&](int64_t i) { return values[static_cast<size_t>(i)]; });
  }
  store.publish();
  return model;
}

}  // namespace perceiver
