// The authors' code (google-research/perceiver-ar): JAX parameters by Haiku module, param/<module>/<name> in
// safetensors files (docs/model.md, "Golden files"), and their experiment's configuration as JSON. Linear
// weights are [in, out].
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "model/positions.h"
#include "port/configuration_keys.h"
#include "port/dialect.h"
#include "port/parameter_names.h"

namespace perceiver {
// Named, since the dialects call their parts alike.
namespace official {
namespace {

using nlohmann::json;

constexpr const char* kTokens = "perceiver_ar/~/embed/embeddings";

const std::vector<std::pair<std::string, Activation>> kActivations{{"sq_relu", Activation::squared_relu},
                                                                   {"gelu", Activation::gelu},
                                                                   {"silu", Activation::silu},
                                                                   {"swish", Activation::silu},
                                                                   {"relu", Activation::relu}};

void read_positions(const ConfigurationKeys& keys, ModelConfig& model) {
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

void read_queries(const ConfigurationKeys& keys, ModelConfig& model) {
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

/// The name of a parameter of a model with that many layers in the MLP of its queries.
class Namer {
 public:
  explicit Namer(const ModelConfig& config)
      : mlp_layers_(config.query_style == QueryStyle::mlp ? static_cast<size_t>(config.query_mlp_layers)
                                                          : 0) {}

  std::string theirs(const std::string& ours) const {
    const std::string root = "perceiver_ar/", inner = root + "~/";
    if (ours == "token_embedding.weight") return kTokens;
    if (ours == "query.learned") return root + "q_embed_learned";
    if (ours == "query.index_encoding") return inner + "z_pos_enc/pos_embs";
    const auto part = ours.substr(0, ours.find('.'));
    const auto rest = ours.substr(part.size() + 1);
    if (part == "position_embedding") return position_table(std::stoul(rest));
    // The MLP of the queries is built before Linear_z, so it takes the first names.
    if (rest.starts_with("mlp.") && part == "query")
      return inner + numbered("linear", std::stoul(rest.substr(4))) + leaf(rest);
    if (part == "query") return inner + numbered("linear", mlp_layers_) + leaf(rest);
    if (part == "output")
      return rest.starts_with("norm") ? root + "layer_norm" + leaf(rest) : inner + "logits" + leaf(rest);
    const BlockName block = split_block(ours);
    const bool cross = part == "cross";
    const std::string name = numbered(cross ? "cross_attention" : "self_attention", block.index);
    return inner + name + "/" + inside_block(cross, block.rest) + leaf(rest);
  }

  static std::string position_table(size_t axis) {
    return "perceiver_ar/~/" + numbered("embed", 1 + axis) + "/embeddings";
  }

 private:
  static std::string leaf(const std::string& name) {
    if (name.ends_with(".weight")) return "/w";
    if (name.ends_with(".bias")) return "/b";
    return "/" + name.substr(name.rfind('.') + 1);
  }
  static std::string inside_block(bool cross, const std::string& name) {
    if (name.starts_with("norm_mlp")) return numbered("layer_norm", cross ? 2 : 1);
    if (name.starts_with("norm_kv")) return "layer_norm_1";
    if (name.starts_with("norm")) return "layer_norm";
    if (name.starts_with("mlp.")) return "dense/" + numbered("linear", std::stoul(name.substr(4)));
    const std::vector<std::string> order{"attention.q.", "attention.k.", "attention.v.", "attention.out."};
    for (size_t i = 0; i < order.size(); ++i)
      if (name.starts_with(order[i])) return "attention/" + numbered("linear", i);
    throw_failure("internal error: no official name for {}", name);
  }

  size_t mlp_layers_;
};

bool has_fixed_formula(const ModelConfig& config) {
  const bool formula =
      config.position_table == PositionTable::sinusoidal || config.position_table == PositionTable::fourier;
  return config.position_encoding == PositionEncoding::absolute && formula && !config.learnable_positions;
}

/// Whether the file's copy of a fixed table, if any, agrees with the formula.
bool agrees_with_formula(const ModelTensors& tensors, const ModelConfig& config, size_t axis) {
  const std::string name = Namer::position_table(axis);
  if (!tensors.has(name)) return true;
  const std::vector<double> table = tensors.values(name);
  const int64_t size = config.position_sizes[axis], channels = config.input_channels;
  if (static_cast<int64_t>(table.size()) != size * channels)
    throw_user("{}: {} has the wrong size", tensors.source(), name);
  for (size_t i = 0; i < table.size(); ++i) {
    const auto element = static_cast<int64_t>(i);
    const double expected =
        position_table_value(config.position_table, size, channels, element / channels, element % channels);
    if (std::abs(table[i] - expected) > 1e-4) return false;
  }
  return true;
}

/// The authors store fixed tables among the parameters, so a file may hold other values than the formula's.
bool agrees_with_formulas(const ModelTensors& tensors, const ModelConfig& config) {
  if (!has_fixed_formula(config)) return true;
  for (size_t axis = 0; axis < config.position_sizes.size(); ++axis)
    if (!agrees_with_formula(tensors, config, axis)) return false;
  return true;
}

ModelConfig config_of(const json& object, const std::string& source) {
  const ConfigurationKeys keys(object, source);
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
  return model;
}

PortedModel model(const json& configuration, const std::string& source) {
  PortedModel ported;
  ported.config = config_of(configuration, source);
  ported.vocabulary = same_ids("text", "bytes", ported.config.vocabulary);
  return ported;
}

/// Their tensors do not say how they are used: heads, activations and positions are configuration alone.
json complete(json configuration, const ModelTensors& tensors, const GivenSizes&,
              std::vector<std::string>& inferred) {
  if (configuration.is_null())
    throw_user("{}: holds weights without the authors' configuration; give it with --config FILE.json",
               tensors.source());
  if (agrees_with_formulas(tensors, config_of(configuration, tensors.source()))) return configuration;
  configuration["position_encoding"] = "random";
  inferred.push_back("position tables other than their formula's, kept as they are");
  return configuration;
}

bool is_linear(const ParameterInfo& info) {
  return info.shape.rank() == 2 && info.use != ParameterUse::table;
}

std::vector<TensorMap> tensors(const PerceiverAR& model, const VocabularyMap&, const json&) {
  const Namer namer(model.config());
  std::vector<TensorMap> maps;
  for (const ParameterInfo& info : model.parameters().infos())
    maps.push_back({info.name, namer.theirs(info.name), is_linear(info)});
  return maps;
}

/// Position tables that follow a formula, which they store all the same.
std::vector<DerivedTensor> derived(const ModelConfig& model) {
  std::vector<DerivedTensor> tables;
  if (!has_fixed_formula(model)) return tables;
  for (size_t axis = 0; axis < model.position_sizes.size(); ++axis) {
    const int64_t size = model.position_sizes[axis], channels = model.input_channels;
    DerivedTensor table{Namer::position_table(axis), {size, channels}, {}};
    for (int64_t i = 0; i < size * channels; ++i)
      table.values.push_back(
          position_table_value(model.position_table, size, channels, i / channels, i % channels));
    tables.push_back(std::move(table));
  }
  return tables;
}

std::string activation_name(Activation activation) {
  for (const auto& [name, value] : kActivations)
    if (value == activation) return name;
  return "gelu";  // the nearest; what differs is found by reading it back
}

/// Their name of a position table, and whether it is trained.
std::pair<std::string, bool> table_name(const ModelConfig& model) {
  if (model.position_table == PositionTable::learned) return {"random", true};
  const bool trained = model.learnable_positions;
  if (model.position_table == PositionTable::random) return {"random", trained};
  return {model.position_table == PositionTable::fourier ? "fourier" : "sinusoidal", trained};
}

json configuration(const ModelConfig& model, const VocabularyMap& vocabulary) {
  const auto [table, trained] = table_name(model);
  const char* style = model.query_style == QueryStyle::none  ? "none"
                      : model.query_style == QueryStyle::mlp ? "mlp"
                                                             : "learned";
  return {
      {"vocab_size", vocabulary.size},
      {"input_idx_size",
       model.position_sizes.empty() ? std::vector<int64_t>{model.context_length + 2} : model.position_sizes},
      {"max_context_length", model.context_length},
      {"input_embed_dim", model.input_channels},
      {"position_encoding", table},
      {"learnable_position_embeddings", trained},
      {"position_encoding_type", model.rotates() ? "rotary" : "absolute"},
      {"fraction_to_rotate", model.rotary_fraction},
      {"fraction_heads_to_rotate", model.rotary_head_fraction},
      {"max_wavelength", model.max_wavelength > 0 ? json(model.max_wavelength) : json()},
      {"use_positions_from_data", model.position_source == PositionSource::data},
      {"use_negative_rotary_positions", model.position_source == PositionSource::terminal_relative_negated},
      {"num_transformers_per_block", model.layers},
      {"z_index_dim", model.latents},
      {"num_z_channels", model.z_channels()},
      {"num_cross_attend_heads", model.cross_heads},
      {"num_transformer_heads", model.self_heads},
      {"cross_attend_widening_factor", model.cross_widening},
      {"transformer_widening_factor", model.self_widening},
      {"initial_query_offsetting", model.query_offset},
      {"initial_query_embed_style", style},
      {"share_learned_initial_query", model.shared_learned_query},
      {"initial_query_embed_activation_name", activation_name(model.query_activation)},
      {"initial_query_embed_num_layers", model.query_mlp_layers},
      {"include_initial_cross_attention", model.type == ModelType::perceiver_ar},
      {"additional_cross_attend_after_layers", model.extra_cross_attention_after},
      {"cross_attention_shape_for_attn", model.attention_width == AttentionWidth::kv ? "kv" : "q"},
      {"encoder_use_query_residual", model.query_residual},
      {"num_latents_per_position", model.latents_per_position},
      {"activation_name", activation_name(model.activation)}};
}

}  // namespace
}  // namespace official

const Dialect official_dialect{.name = "official",
                               .project = "google-research/perceiver-ar",
                               .marker = official::kTokens,
                               .complete = official::complete,
                               .model = official::model,
                               .tensors = official::tensors,
                               .derived = official::derived,
                               .configuration = official::configuration};

}  // namespace perceiver
