// Hugging Face's TransfoXLLMHeadModel (Transformer-XL, Dai et al. 2019) with a plain softmax.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "port/configuration_keys.h"
#include "port/dialect.h"
#include "port/parameter_names.h"
#include "port/rotary_buffer.h"

namespace perceiver {
// Named, since the dialects call their parts alike.
namespace transfo_xl {
namespace {

using nlohmann::json;

constexpr const char* kTokens = "transformer.word_emb.emb_layers.0.weight";
constexpr const char* kFrequencies = "transformer.pos_emb.inv_freq";
constexpr const char* kOutput = "crit.out_layers.0.weight";
constexpr double kEpsilon = 1e-5;
constexpr int64_t kSegment = 128;  // tgt_len of the published model; configurations no longer say it

json complete(json configuration, const ModelTensors& tensors, const GivenSizes& given,
              std::vector<std::string>& inferred) {
  if (configuration.is_null())
    throw_user("{}: holds weights without a configuration; a config.json must lie beside them",
               tensors.source());
  const ConfigurationKeys keys(configuration, tensors.source());
  if (given.context_length > 0) configuration["tgt_len"] = given.context_length;
  if (!keys.has("tgt_len")) {
    configuration["tgt_len"] = kSegment;
    inferred.push_back(fmt::format("segments of {} tokens (--context)", kSegment));
  }
  const int64_t layers = tensors.count("transformer.layers.", ".dec_attn.qkv_net.weight");
  if (keys.get<int64_t>("n_layer") != layers)
    throw_user("{}: the configuration says n_layer {}, but the tensors have {}", tensors.source(),
               keys.get<int64_t>("n_layer"), layers);
  return configuration;
}

void refuse_unknown(const ConfigurationKeys& keys) {
  const json cutoffs = keys.get<json>("cutoffs", json::array());
  if (!cutoffs.empty() || keys.get<int64_t>("div_val", 1) != 1)
    throw_user("{}: has an adaptive softmax (cutoffs {}, div_val {}); only a plain one can be imported",
               keys.source(), cutoffs.dump(), keys.get<int64_t>("div_val", 1));
  if (keys.get<int64_t>("attn_type", 0) != 0)
    throw_user("{}: attn_type {}; only 0, Transformer-XL's own, can be imported", keys.source(),
               keys.get<int64_t>("attn_type"));
  if (keys.get<double>("layer_norm_epsilon", kEpsilon) != kEpsilon)
    throw_user("{}: layer_norm_epsilon {}; this program has {}", keys.source(),
               keys.get<double>("layer_norm_epsilon"), kEpsilon);
}

PortedModel model(const json& configuration, const std::string& source) {
  const ConfigurationKeys keys(configuration, source);
  refuse_unknown(keys);
  PortedModel ported;
  ported.vocabulary = plain_tokens(keys.get<int64_t>("vocab_size"));
  ModelConfig& config = ported.config;
  config.type = ModelType::transformer_xl;
  config.vocabulary = ported.vocabulary.ours();
  config.context_length = config.latents = keys.get<int64_t>("tgt_len", kSegment);
  config.latent_channels = keys.get<int64_t>("d_model");
  config.input_channels = keys.get<int64_t>("d_embed", config.latent_channels);
  config.layers = keys.get<int64_t>("n_layer");
  config.self_heads = keys.get<int64_t>("n_head");
  config.head_channels = keys.get<int64_t>("d_head");
  config.mlp_channels = keys.get<int64_t>("d_inner");
  config.memory_length = std::max<int64_t>(0, keys.get<int64_t>("mem_len"));
  config.clamp_length = std::max<int64_t>(0, keys.get<int64_t>("clamp_len", -1));
  config.same_length = keys.get<bool>("same_length", false);
  config.shared_biases = !keys.get<bool>("untie_r", true);
  config.norm_first = keys.get<bool>("pre_lnorm", false);
  config.zero_memory = config.memory_length > 0;
  config.activation = Activation::relu;
  config.residual_dropout = keys.get<double>("dropout", 0.1);
  config.attention_dropout = keys.get<double>("dropatt", 0.0);
  config.output_norm = false;
  config.output_bias = true;
  config.tied_output = keys.get<bool>("tie_word_embeddings", true);
  const json tied = keys.get<json>("tie_projs", json::array());
  const bool projects = config.input_channels != config.latent_channels;
  if (projects && tied.is_array() && !tied.empty() && tied[0] == true)
    ported.lost.push_back("that the projections of input and output are one (tie_projs)");
  return ported;
}

std::vector<int64_t> part_rows(int64_t part, int64_t count) {
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < count; ++i) rows.push_back(part * count + i);
  return rows;
}

const std::vector<NamePart> kNames{
    {"norm.", "dec_attn.layer_norm."},     {"norm_mlp.", "pos_ff.layer_norm."},
    {"mlp.0.", "pos_ff.CoreNet.0."},       {"mlp.1.", "pos_ff.CoreNet.3."},
    {"attention.out.", "dec_attn.o_net."}, {"attention.position.", "dec_attn.r_net."}};

/// "r_w_bias" of "content_bias"; "" for others.
std::string bias_name(std::string_view ours) {
  if (ours.ends_with("content_bias")) return "r_w_bias";
  return ours.ends_with("position_bias") ? "r_r_bias" : "";
}

TensorMap block_map(const ParameterInfo& info) {
  const BlockName block = split_block(info.name);
  const std::string layer = fmt::format("transformer.layers.{}.", block.index);
  const std::string bias = bias_name(block.rest);
  if (!bias.empty()) return {info.name, layer + "dec_attn." + bias};
  for (const auto& [start, part] :
       {std::pair{"attention.q.", 0}, std::pair{"attention.k.", 1}, std::pair{"attention.v.", 2}})
    if (block.rest.starts_with(start))
      return {info.name, layer + "dec_attn.qkv_net.weight", false, part_rows(part, info.shape[0]),
              3 * info.shape[0]};
  return {info.name, layer + renamed(block.rest, kNames)};
}

TensorMap map_of(const ParameterInfo& info, const VocabularyMap& vocabulary) {
  const std::string& ours = info.name;
  if (ours == "token_embedding.weight")
    return {ours, kTokens, false, vocabulary.rows(kZeroRow), vocabulary.size};
  if (ours == "output.linear.weight")
    return {ours, kOutput, false, vocabulary.rows(kZeroRow), vocabulary.size};
  if (ours == "output.linear.bias") return output_bias_map(ours, "crit.out_layers.0.bias", vocabulary);
  if (ours == "embedding.projection.weight") return {ours, "transformer.word_emb.emb_projs.0"};
  if (ours == "output.projection.weight") return {ours, "crit.out_projs.0", true};
  if (ours.starts_with("attention.")) return {ours, "transformer." + bias_name(ours)};
  return block_map(info);
}

std::vector<TensorMap> tensors(const PerceiverAR& model, const VocabularyMap& vocabulary, const json&) {
  std::vector<TensorMap> maps;
  for (const ParameterInfo& info : model.parameters().infos()) maps.push_back(map_of(info, vocabulary));
  return maps;
}

std::vector<DerivedTensor> derived(const ModelConfig& model) {
  return {frequency_tensor(kFrequencies, model.z_channels())};
}

std::vector<RepeatedTensor> repeated(const ModelConfig& model) {
  std::vector<RepeatedTensor> all;
  if (model.tied_output) all.push_back({kOutput, kTokens});
  for (int64_t layer = 0; model.shared_biases && layer < model.layers; ++layer)
    for (const char* bias : {"r_w_bias", "r_r_bias"})
      all.push_back({fmt::format("transformer.layers.{}.dec_attn.{}", layer, bias),
                     fmt::format("transformer.{}", bias)});
  return all;
}

json configuration(const ModelConfig& model, const VocabularyMap& vocabulary) {
  return {{"architectures", {"TransfoXLLMHeadModel"}},
          {"model_type", "transfo-xl"},
          {"adaptive", false},
          {"cutoffs", json::array()},
          {"div_val", 1},
          {"attn_type", 0},
          {"vocab_size", vocabulary.size},
          {"tgt_len", model.context_length},
          {"d_model", model.z_channels()},
          {"d_embed", model.input_channels},
          {"n_layer", model.layers},
          {"n_head", model.self_heads},
          {"d_head", model.self_width() / std::max<int64_t>(1, model.self_heads)},
          {"d_inner", model.mlp_width()},
          {"mem_len", model.memory_length},
          {"clamp_len", model.clamp_length > 0 ? model.clamp_length : -1},
          {"same_length", model.same_length},
          {"untie_r", !model.shared_biases},
          {"pre_lnorm", model.norm_first},
          {"dropout", model.residual_dropout},
          {"dropatt", model.attention_dropout},
          {"layer_norm_epsilon", kEpsilon},
          {"tie_word_embeddings", model.tied_output},
          {"tie_projs", {false}}};
}

}  // namespace
}  // namespace transfo_xl

const Dialect transfo_xl_dialect{.name = "transfo-xl",
                                 .project = "Hugging Face's TransfoXLLMHeadModel",
                                 .marker = transfo_xl::kTokens,
                                 .complete = transfo_xl::complete,
                                 .model = transfo_xl::model,
                                 .tensors = transfo_xl::tensors,
                                 .derived = transfo_xl::derived,
                                 .configuration = transfo_xl::configuration,
                                 .repeated = transfo_xl::repeated};

}  // namespace perceiver
