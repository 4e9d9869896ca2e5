// lucidrains/perceiver-ar-pytorch: PerceiverAR. Its files hold no configuration; the names of configuration
// keys are those of its constructor's arguments.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "port/configuration_keys.h"
#include "port/dialect.h"
#include "port/divisors.h"
#include "port/parameter_names.h"
#include "port/rotary_buffer.h"

namespace perceiver {
// Named, since the dialects call their parts alike.
namespace lucidrains {
namespace {

using nlohmann::json;

constexpr const char* kTokens = "token_emb.weight";
constexpr const char* kPositions = "pos_emb.weight";
constexpr const char* kFrequencies = "rotary_pos_emb.inv_freq";
constexpr const char* kLogits = "to_logits.weight";
constexpr int64_t kFewestRotated = 32;
constexpr int64_t kByteIds = 256;
constexpr double kLargestFactor = 1e6;

/// Rotated channels of a head of `channels`.
int64_t rotated(int64_t channels) {
  return std::max(kFewestRotated, channels / 2);
}

/// The width of a feed-forward's hidden layer, as the constructor computes it.
int64_t hidden_width(int64_t dim, double factor) {
  if (!(factor >= 0 && factor < kLargestFactor)) return -1;
  return static_cast<int64_t>(static_cast<double>(dim) * factor);
}

class Completion {
 public:
  Completion(json configuration, const ModelTensors& tensors, const GivenSizes& given,
             std::vector<std::string>& inferred)
      : configuration_(configuration.is_null() ? json::object() : std::move(configuration)),
        tensors_(tensors),
        given_(given),
        inferred_(inferred) {}

  json run() {
    shown("num_tokens", tensors_.extent(kTokens, 0));
    shown("dim", tensors_.extent(kTokens, 1));
    shown("max_seq_len", tensors_.extent(kPositions, 0));
    shown("depth", tensors_.count("layers.", ".0.to_qkv.weight"));
    shown("perceive_depth", tensors_.count("perceive_layers.", ".0.to_q.weight"));
    show_widening();
    tell_heads();
    tell_prefix();
    if (!missing_.empty())
      throw_user("{}: holds weights without a configuration; give {}", tensors_.source(),
                 fmt::join(missing_, " and "));
    return configuration_;
  }

 private:
  bool has(const char* key) const { return ConfigurationKeys(configuration_, tensors_.source()).has(key); }
  template <typename T>
  T get(const char* key) const {
    return ConfigurationKeys(configuration_, tensors_.source()).get<T>(key);
  }

  void shown(const char* key, int64_t value) {
    if (has(key) && get<int64_t>(key) != value)
      throw_user("{}: the configuration says {} {}, but the tensors have {}", tensors_.source(), key,
                 get<int64_t>(key), value);
    if (has(key)) return;
    configuration_[key] = value;
    inferred_.push_back(fmt::format("{} {}", key, value));
  }

  void show_widening() {
    const int64_t dim = tensors_.extent(kTokens, 1), hidden = tensors_.extent("layers.0.1.1.weight", 0);
    if (dim < 1 || hidden % dim != 0)
      throw_user("{}: feed-forwards of {} channels in a model of {}; only whole multiples can be imported",
                 tensors_.source(), hidden, dim);
    if (has("ff_mult") && hidden_width(dim, get<double>("ff_mult")) != hidden)
      throw_user("{}: the configuration says ff_mult {}, but the feed-forwards have {} channels",
                 tensors_.source(), get<double>("ff_mult"), hidden);
    if (has("ff_mult")) return;
    configuration_["ff_mult"] = hidden / dim;
    inferred_.push_back(fmt::format("ff_mult {}", hidden / dim));
  }

  /// The tensors show only the product of heads and channels, and how many channels are rotated.
  void tell_heads() {
    const int64_t width = tensors_.extent("perceive_layers.0.0.to_q.weight", 0);
    const int64_t frequencies = tensors_.extent(kFrequencies, 0);
    std::vector<int64_t> fit;
    for (const int64_t channels : divisors(width))
      if (channels >= kFewestRotated && rotated(channels) == 2 * frequencies) fit.push_back(channels);
    int64_t channels = given_.head_channels;
    if (channels == 0 && given_.heads > 0) channels = width / given_.heads;
    if (has("dim_head")) channels = get<int64_t>("dim_head");
    if (channels == 0 && has("heads")) channels = width / std::max<int64_t>(1, get<int64_t>("heads"));
    const std::string choices = choices_of(width, fit);
    if (channels == 0 && fit.size() == 1) {
      channels = fit[0];
      inferred_.push_back(fmt::format("dim_head {}, heads {}", channels, width / channels));
    }
    if (channels == 0) {
      missing_.push_back(fmt::format("--heads COUNT ({} would fit)", choices));
      return;
    }
    if (std::find(fit.begin(), fit.end(), channels) == fit.end())
      throw_user("{}: heads of {} channels do not fit its weights; {} would fit", tensors_.source(), channels,
                 choices);
    if (has("heads") && get<int64_t>("heads") != width / channels)
      throw_user("{}: the configuration says {} heads of {} channels, but all heads have {} channels",
                 tensors_.source(), get<int64_t>("heads"), channels, width);
    configuration_["dim_head"] = channels;
    configuration_["heads"] = width / channels;
  }

  static std::string choices_of(int64_t width, const std::vector<int64_t>& fit) {
    std::vector<std::string> words;
    for (const int64_t channels : fit)
      words.push_back(fmt::format("{} of {} channels", width / channels, channels));
    return words.empty() ? "none" : fmt::format("{}", fmt::join(words, " or "));
  }

  void tell_prefix() {
    const int64_t context = get<int64_t>("max_seq_len");
    int64_t prefix = given_.prefix_length;
    if (prefix == 0 && given_.latents > 0) prefix = context - given_.latents;
    if (has("cross_attn_seq_len")) prefix = get<int64_t>("cross_attn_seq_len");
    if (prefix == 0) {
      missing_.push_back(fmt::format("--prefix-length TOKENS (cross_attn_seq_len, 1 to {})", context - 1));
      return;
    }
    if (prefix < 1 || prefix >= context)
      throw_user("{}: a prefix of {} tokens; it must be from 1 to {}, fewer than the context",
                 tensors_.source(), prefix, context - 1);
    configuration_["cross_attn_seq_len"] = prefix;
  }

  json configuration_;
  const ModelTensors& tensors_;
  const GivenSizes& given_;
  std::vector<std::string>& inferred_;
  std::vector<std::string> missing_;
};

json complete(json configuration, const ModelTensors& tensors, const GivenSizes& given,
              std::vector<std::string>& inferred) {
  json complete = Completion(std::move(configuration), tensors, given, inferred).run();
  check_rotary_frequencies(tensors, kFrequencies, rotated(complete.at("dim_head")));
  return complete;
}

PortedModel model(const json& configuration, const std::string& source) {
  const ConfigurationKeys keys(configuration, source);
  PortedModel ported;
  const auto ids = keys.get<int64_t>("num_tokens");
  ported.vocabulary = ids == kByteIds ? plain_bytes() : plain_tokens(ids);
  ModelConfig& config = ported.config;
  config.vocabulary = ported.vocabulary.ours();
  config.context_length = keys.get<int64_t>("max_seq_len");
  config.latents = config.context_length - keys.get<int64_t>("cross_attn_seq_len");
  config.input_channels = config.latent_channels = keys.get<int64_t>("dim");
  config.layers = keys.get<int64_t>("depth");
  config.cross_heads = config.self_heads = keys.get<int64_t>("heads", 8);
  config.head_channels = keys.get<int64_t>("dim_head", 64);
  if (config.head_channels < kFewestRotated)
    throw_user("{}: heads of {} channels; the rotation needs {}", source, config.head_channels,
               kFewestRotated);
  config.cross_widening = config.self_widening =
      hidden_width(config.input_channels, keys.get<double>("ff_mult", 4)) / config.input_channels;
  config.extra_cross_attention_after.assign(
      static_cast<size_t>(std::clamp<int64_t>(keys.get<int64_t>("perceive_depth", 1), 1, 10'000) - 1), -1);
  config.activation = Activation::gelu_exact;
  config.biases = Biases::cross_output;
  config.query_projection = false;
  config.latent_keys = LatentKeys::latents;
  config.position_encoding = PositionEncoding::both;
  config.position_table = PositionTable::learned;
  config.position_sizes = {config.context_length + 1};
  config.rotary_base = 10000;
  config.rotary_fraction =
      static_cast<double>(rotated(config.head_channels)) / static_cast<double>(config.head_channels);
  config.context_dropout = keys.get<double>("cross_attn_dropout", 0.0);
  config.context_dropout_from = ContextDropout::prefix;
  config.residual_dropout = 0;
  config.output_norm = false;
  config.output_bias = ported.vocabulary.lacks_ids();
  config.tied_output = false;
  if (const double rate = keys.get<double>("dropout", 0.0); rate > 0)
    ported.lost.push_back(
        fmt::format("dropout of attention probabilities and inside feed-forwards (dropout {})", rate));
  return ported;
}

/// Rows of queries or keys: half-split pairs (t, t + R/2) become interleaved ones (2t, 2t + 1), head by head.
std::vector<int64_t> interleaved(int64_t first, int64_t heads, int64_t channels) {
  const int64_t half = rotated(channels) / 2;
  std::vector<int64_t> rows;
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t c = 0; c < channels; ++c)
      rows.push_back(first + h * channels + (c >= 2 * half ? c : c / 2 + (c % 2) * half));
  return rows;
}

std::vector<int64_t> consecutive(int64_t first, int64_t count) {
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < count; ++i) rows.push_back(first + i);
  return rows;
}

const std::vector<NamePart> kNames{{"norm_q.", "0.norm."}, {"norm_kv.", "0.context_norm."},
                                   {"norm.", "0.norm."},   {"attention.out.", "0.to_out."},
                                   {"norm_mlp.", "1.0."},  {"mlp.0.", "1.1."},
                                   {"mlp.1.", "1.4."}};

/// A block's queries, keys or values, which are parts of packed weights there.
TensorMap attention_map(const std::string& ours, const std::string& layer, const BlockName& block,
                        const json& configuration) {
  const auto heads = configuration.at("heads").get<int64_t>(),
             channels = configuration.at("dim_head").get<int64_t>();
  const int64_t width = heads * channels;
  const char which = block.rest[std::string_view("attention.").size()];
  const bool cross = block.kind == "cross";
  const int64_t part = which == 'q' ? 0 : which == 'k' ? 1 : 2;
  const int64_t first = (cross && part > 0 ? part - 1 : part) * width;
  const char* packed = !cross ? "0.to_qkv.weight" : part == 0 ? "0.to_q.weight" : "0.to_kv.weight";
  const int64_t parts = !cross ? 3 : part == 0 ? 1 : 2;
  return {ours, layer + packed, false,
          part < 2 ? interleaved(first, heads, channels) : consecutive(first, width), parts * width};
}

TensorMap map_of(const ParameterInfo& info, const VocabularyMap& vocabulary, const json& configuration) {
  const std::string& ours = info.name;
  if (ours == "token_embedding.weight")
    return {ours, kTokens, false, vocabulary.rows(kZeroRow), vocabulary.size};
  if (ours == "output.linear.weight")
    return {ours, kLogits, false, vocabulary.rows(kZeroRow), vocabulary.size};
  if (ours == "output.linear.bias") return output_bias_map(ours, "", vocabulary);
  if (ours == "position_embedding.0.weight")
    return position_map(ours, kPositions, info.shape[0], configuration.at("max_seq_len"));
  const BlockName block = split_block(ours);
  const std::string layer =
      fmt::format("{}.{}.", block.kind == "cross" ? "perceive_layers" : "layers", block.index);
  for (const char* packed : {"attention.q.", "attention.k.", "attention.v."})
    if (block.rest.starts_with(packed)) return attention_map(ours, layer, block, configuration);
  return {ours, layer + renamed(block.rest, kNames)};
}

std::vector<TensorMap> tensors(const PerceiverAR& model, const VocabularyMap& vocabulary,
                               const json& configuration) {
  std::vector<TensorMap> maps;
  for (const ParameterInfo& info : model.parameters().infos())
    maps.push_back(map_of(info, vocabulary, configuration));
  return maps;
}

std::vector<DerivedTensor> derived(const ModelConfig& model) {
  return {frequency_tensor(kFrequencies, rotated(model.head_channels))};
}

json configuration(const ModelConfig& model, const VocabularyMap& vocabulary) {
  const int64_t heads = std::max<int64_t>(1, model.self_heads);
  return {{"num_tokens", vocabulary.size},
          {"dim", model.input_channels},
          {"depth", model.layers},
          {"max_seq_len", model.context_length},
          {"cross_attn_seq_len", model.context_length - model.latents},
          {"dim_head", model.self_width() / heads},
          {"heads", heads},
          {"ff_mult", model.self_widening},
          {"perceive_depth", 1 + model.extra_cross_attention_after.size()},
          {"dropout", 0.0},
          {"cross_attn_dropout",
           model.context_dropout_from == ContextDropout::prefix ? model.context_dropout : 0.0}};
}

}  // namespace
}  // namespace lucidrains

const Dialect lucidrains_dialect{.name = "lucidrains",
                                 .project = "lucidrains/perceiver-ar-pytorch",
                                 .marker = lucidrains::kFrequencies,
                                 .complete = lucidrains::complete,
                                 .model = lucidrains::model,
                                 .tensors = lucidrains::tensors,
                                 .derived = lucidrains::derived,
                                 .configuration = lucidrains::configuration};

}  // namespace perceiver
