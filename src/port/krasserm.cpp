// krasserm/perceiver-io: CausalLanguageModel and SymbolicAudioModel, which are one model
// (CausalSequenceModel). Defaults are those of its CausalSequenceModelConfig.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "port/configuration_keys.h"
#include "port/dialect.h"
#include "port/divisors.h"
#include "port/parameter_names.h"
#include "port/rotary_buffer.h"

namespace perceiver {
// Named, since the dialects call their parts alike.
namespace krasserm {
namespace {

using nlohmann::json;

constexpr const char* kTokens = "input_adapter.txt_embedding.weight";
constexpr const char* kPositions = "input_adapter.pos_embedding.weight";
constexpr const char* kFrequencies = "input_adapter.frq_pos_encoding.inv_freq";
constexpr const char* kOutputBias = "output_adapter.bias";
constexpr int64_t kByteIds = 262, kEventIds = 389;
constexpr int64_t kDefaultContext = 4096, kDefaultLatents = 512, kDefaultHeads = 8, kDefaultRotaryLayers = 1;

/// Rotated channels of a head of `channels`: r of docs/import.md.
int64_t rotated(int64_t channels, bool with_table) {
  return with_table ? channels / 2 : channels;
}

/// Numbers of heads that the stored frequencies allow.
std::vector<int64_t> fitting_heads(int64_t channels, bool with_table, int64_t frequencies) {
  std::vector<int64_t> fit;
  for (const int64_t heads : divisors(channels)) {
    const int64_t width = rotated(channels / heads, with_table);
    if (width > 0 && (width + 1) / 2 == frequencies) fit.push_back(heads);
  }
  return fit;
}

/// Fills in what the tensors show.
class Completion {
 public:
  Completion(json configuration, const ModelTensors& tensors, const GivenSizes& given,
             std::vector<std::string>& inferred)
      : known_(!configuration.is_null()),
        configuration_(known_ ? std::move(configuration) : json::object()),
        tensors_(tensors),
        given_(given),
        inferred_(inferred) {}

  json run() {
    const int64_t channels = tensors_.extent(kTokens, 1);
    const bool with_table = tensors_.has(kPositions);
    if (channels < 1) throw_user("{}: {} is empty", tensors_.source(), kTokens);
    shown("vocab_size", tensors_.extent(kTokens, 0));
    shown("num_channels", channels);
    shown("num_self_attention_layers", tensors_.count("self_attention.", ".0.module.norm.weight"));
    shown("cross_attention_widening_factor",
          tensors_.extent("cross_attention.1.module.1.weight", 0) / channels);
    shown("self_attention_widening_factor",
          tensors_.extent("self_attention.0.1.module.1.weight", 0) / channels);
    shown("abs_pos_emb", with_table);
    shown("output_norm", tensors_.has("out_norm.weight"));
    shown("output_bias", tensors_.has(kOutputBias));
    if (with_table) shown("max_seq_len", tensors_.extent(kPositions, 0));
    told("max_seq_len", given_.context_length, kDefaultContext, "--context LENGTH");
    told("max_latents", given_.latents, kDefaultLatents, "--latents COUNT");
    tell_heads(channels, with_table);
    tell_rotary_layers();
    if (!missing_.empty())
      throw_user("{}: holds weights without a configuration; give {}", tensors_.source(),
                 fmt::join(missing_, ", "));
    return configuration_;
  }

 private:
  template <typename T>
  void shown(const char* key, T value) {
    const ConfigurationKeys keys(configuration_, tensors_.source());
    if (!keys.has(key)) {
      configuration_[key] = value;
      if (!known_) inferred_.push_back(fmt::format("{} {}", key, value));
    } else if (keys.get<T>(key) != value) {
      throw_user("{}: the configuration says {} {}, but the tensors have {}", tensors_.source(), key,
                 keys.get<T>(key), value);
    }
  }

  /// What no tensor shows: as configured, as given, or the default of an older file's missing key.
  void told(const char* key, int64_t given, int64_t fallback, const char* option) {
    const ConfigurationKeys keys(configuration_, tensors_.source());
    if (keys.has(key)) {
      if (given > 0 && keys.get<int64_t>(key) != given)
        throw_user("{}: the configuration says {} {}; leave out {}", tensors_.source(), key,
                   keys.get<int64_t>(key), option);
    } else if (given > 0 || known_) {
      configuration_[key] = given > 0 ? given : fallback;
    } else {
      missing_.push_back(option);
    }
  }

  void tell_heads(int64_t channels, bool with_table) {
    const std::vector<int64_t> fit = fitting_heads(channels, with_table, tensors_.extent(kFrequencies, 0));
    int64_t given = given_.heads;
    if (given == 0 && given_.head_channels > 0) given = channels / given_.head_channels;
    if (!known_ && given == 0 && fit.size() == 1) {
      configuration_["num_heads"] = fit[0];
      inferred_.push_back(fmt::format("num_heads {}", fit[0]));
      return;
    }
    const std::string option = fmt::format("--heads COUNT ({} would fit)", fmt::join(fit, " or "));
    told("num_heads", given, kDefaultHeads, option.c_str());
  }

  void tell_rotary_layers() {
    const bool given = given_.rotary_layers != GivenSizes().rotary_layers;
    if (ConfigurationKeys(configuration_, tensors_.source()).has("num_self_attention_rotary_layers")) return;
    configuration_["num_self_attention_rotary_layers"] = given ? given_.rotary_layers : kDefaultRotaryLayers;
    if (!known_ && !given)
      inferred_.push_back("num_self_attention_rotary_layers 1, the default (--rotary-layers changes it)");
  }

  bool known_;
  json configuration_;
  const ModelTensors& tensors_;
  const GivenSizes& given_;
  std::vector<std::string>& inferred_;
  std::vector<std::string> missing_;
};

json complete(json configuration, const ModelTensors& tensors, const GivenSizes& given,
              std::vector<std::string>& inferred) {
  json complete = Completion(std::move(configuration), tensors, given, inferred).run();
  const ConfigurationKeys keys(complete, tensors.source());
  const int64_t heads = keys.get<int64_t>("num_heads"), channels = keys.get<int64_t>("num_channels");
  if (heads < 1 || channels % heads != 0)
    throw_user("{}: {} heads do not divide {} channels", tensors.source(), heads, channels);
  check_rotary_frequencies(tensors, kFrequencies, rotated(channels / heads, keys.get<bool>("abs_pos_emb")));
  return complete;
}

VocabularyMap vocabulary_of(int64_t size) {
  if (size == kByteIds) return perceiver_io_bytes();
  if (size == kEventIds) return piano_events();
  return plain_tokens(size);
}

PortedModel model(const json& configuration, const std::string& source) {
  const ConfigurationKeys keys(configuration, source);
  PortedModel ported;
  ported.vocabulary = vocabulary_of(keys.get<int64_t>("vocab_size", kByteIds));
  ModelConfig& config = ported.config;
  config.vocabulary = ported.vocabulary.ours();
  config.context_length = keys.get<int64_t>("max_seq_len", kDefaultContext);
  config.latents = keys.get<int64_t>("max_latents", kDefaultLatents);
  config.input_channels = config.latent_channels = keys.get<int64_t>("num_channels");
  config.cross_heads = config.self_heads = keys.get<int64_t>("num_heads", kDefaultHeads);
  config.layers = keys.get<int64_t>("num_self_attention_layers");
  const int64_t rotary_layers = keys.get<int64_t>("num_self_attention_rotary_layers", kDefaultRotaryLayers);
  config.rotary_layers = rotary_layers < 0 || rotary_layers >= config.layers ? -1 : rotary_layers;
  config.cross_widening = keys.get<int64_t>("cross_attention_widening_factor", 4);
  config.self_widening = keys.get<int64_t>("self_attention_widening_factor", 4);
  config.activation = Activation::gelu_exact;
  config.biases = Biases::cross_output;
  config.query_projection = false;
  config.latent_keys = LatentKeys::latents;
  const bool with_table = keys.get<bool>("abs_pos_emb", true);
  config.position_encoding = with_table ? PositionEncoding::both : PositionEncoding::rotary;
  config.rotary_base = 10000;
  config.rotary_fraction = with_table ? 0.5 : 1;
  if (with_table) {
    config.position_table = PositionTable::learned;
    config.position_sizes = {config.context_length + 1};
  }
  config.context_dropout = keys.get<double>("cross_attention_dropout", 0.5);
  config.context_dropout_from = ContextDropout::prefix;
  config.residual_dropout = keys.get<double>("residual_dropout", 0.0);
  config.output_norm = keys.get<bool>("output_norm", false);
  config.output_bias = keys.get<bool>("output_bias", true) || ported.vocabulary.lacks_ids();
  config.tied_output = true;
  config.zero_initial_logits = false;
  if (const double rate = keys.get<double>("post_attention_dropout", 0.0); rate > 0)
    ported.lost.push_back(
        fmt::format("dropout of attention probabilities (post_attention_dropout {})", rate));
  return ported;
}

const std::vector<NamePart> kNames{{"norm_q.", "0.module.q_norm."},
                                   {"norm_kv.", "0.module.kv_norm."},
                                   {"norm.", "0.module.norm."},
                                   {"attention.q.", "0.module.attention.q_proj."},
                                   {"attention.k.", "0.module.attention.k_proj."},
                                   {"attention.v.", "0.module.attention.v_proj."},
                                   {"attention.out.", "0.module.attention.o_proj."},
                                   {"norm_mlp.", "1.module.0."},
                                   {"mlp.0.", "1.module.1."},
                                   {"mlp.1.", "1.module.3."}};

TensorMap map_of(const ParameterInfo& info, const VocabularyMap& vocabulary, const json& configuration) {
  const std::string& ours = info.name;
  if (ours == "token_embedding.weight")
    return {ours, kTokens, false, vocabulary.rows(kZeroRow), vocabulary.size};
  if (ours == "output.linear.bias")
    return output_bias_map(ours, configuration.at("output_bias") ? kOutputBias : "", vocabulary);
  if (ours == "position_embedding.0.weight")
    return position_map(ours, kPositions, info.shape[0], configuration.at("max_seq_len"));
  if (ours.starts_with("output.norm.")) return {ours, "out_norm" + torch_leaf(ours)};
  const BlockName block = split_block(ours);
  if (block.kind == "cross") return {ours, "cross_attention." + renamed(block.rest, kNames)};
  return {ours, fmt::format("self_attention.{}.{}", block.index, renamed(block.rest, kNames))};
}

std::vector<TensorMap> tensors(const PerceiverAR& model, const VocabularyMap& vocabulary,
                               const json& configuration) {
  std::vector<TensorMap> maps;
  for (const ParameterInfo& info : model.parameters().infos())
    maps.push_back(map_of(info, vocabulary, configuration));
  return maps;
}

std::vector<DerivedTensor> derived(const ModelConfig& model) {
  const int64_t channels = model.self_width() / model.self_heads;
  return {frequency_tensor(kFrequencies, rotated(channels, model.has_position_tables()))};
}

json configuration(const ModelConfig& model, const VocabularyMap& vocabulary) {
  return {{"vocab_size", vocabulary.size},
          {"max_seq_len", model.context_length},
          {"max_latents", model.latents},
          {"num_channels", model.input_channels},
          {"num_heads", model.self_heads},
          {"max_heads_parallel", nullptr},
          {"num_self_attention_layers", model.layers},
          {"num_self_attention_rotary_layers", model.rotary_layers},
          {"self_attention_widening_factor", model.self_widening},
          {"cross_attention_widening_factor", model.cross_widening},
          {"cross_attention_dropout",
           model.context_dropout_from == ContextDropout::prefix ? model.context_dropout : 0.0},
          {"post_attention_dropout", 0.0},
          {"residual_dropout", model.residual_dropout},
          {"output_norm", model.output_norm},
          {"output_bias", model.output_bias},
          {"abs_pos_emb", model.has_position_tables()},
          {"init_scale", 0.02},
          {"activation_checkpointing", false},
          {"activation_offloading", false}};
}

}  // namespace
}  // namespace krasserm

const Dialect krasserm_dialect{.name = "krasserm",
                               .project = "krasserm/perceiver-io",
                               .marker = krasserm::kTokens,
                               .complete = krasserm::complete,
                               .model = krasserm::model,
                               .tensors = krasserm::tensors,
                               .derived = krasserm::derived,
                               .configuration = krasserm::configuration};

}  // namespace perceiver
