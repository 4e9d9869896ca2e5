#include "port/comparable_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "config/save.h"
#include "config/validate.h"

namespace perceiver {
namespace {

constexpr double kRoundedUp = 1e-6;  // as make_rotary_table counts channels

void forget_training(ModelConfig& config) {
  const ModelConfig plain;
  config.residual_dropout = plain.residual_dropout;
  config.context_dropout = plain.context_dropout;
  config.context_dropout_from = plain.context_dropout_from;
  config.latent_dropout = plain.latent_dropout;
  config.train_input_positions = plain.train_input_positions;
  config.zero_initial_logits = plain.zero_initial_logits;
  config.context_projection = plain.context_projection;
  config.attention = plain.attention;
  config.attention_dropout = plain.attention_dropout;
  config.vocabulary = plain.vocabulary;
  config.output_bias = plain.output_bias;
}

void settle_heads(ModelConfig& config) {
  const bool same = config.cross_width() * config.self_heads == config.self_width() * config.cross_heads;
  if (same || config.decoder_only()) config.head_channels = config.self_width() / config.self_heads;
  if (config.input_channels == config.latent_channels || config.head_channels > 0)
    config.attention_width = AttentionWidth::kv;
}

void settle_rotation(ModelConfig& config) {
  const ModelConfig plain;
  if (config.rotary_layers >= config.layers) config.rotary_layers = -1;
  if (config.max_wavelength == 0) config.max_wavelength = static_cast<double>(config.context_length);
  const auto channels = static_cast<double>(config.self_width() / config.self_heads);
  const double rotated = config.rotary_base > 0
                             ? std::floor(channels * config.rotary_fraction + kRoundedUp)
                             : 2 * std::floor(channels * config.rotary_fraction / 2 + kRoundedUp);
  config.rotary_fraction = rotated / channels;
  if (config.rotates()) return;
  config.rotary_fraction = plain.rotary_fraction;
  config.rotary_head_fraction = plain.rotary_head_fraction;
  config.max_wavelength = plain.max_wavelength;
  config.rotary_base = plain.rotary_base;
  config.rotary_layers = plain.rotary_layers;
}

void settle_recurrence(ModelConfig& config) {
  if (!config.recurrent()) return;
  const ModelConfig plain;
  config.mlp_channels = config.mlp_width();
  config.self_widening = plain.self_widening;
  config.cross_heads = plain.cross_heads;
  config.cross_widening = plain.cross_widening;
}

void settle_tables(ModelConfig& config) {
  const ModelConfig plain;
  if (!config.has_position_tables()) {
    config.position_table = plain.position_table;
    config.position_sizes = plain.position_sizes;
    config.learnable_positions = plain.learnable_positions;
    return;
  }
  if (config.position_table == PositionTable::random && config.learnable_positions)
    config.position_table = PositionTable::learned;
  if (config.position_table == PositionTable::learned) config.learnable_positions = false;
  // Rows that no position reaches.
  if (config.axes() == 1 && config.position_source == PositionSource::data)
    config.position_sizes = {config.context_length + 1};
}

void settle_queries(ModelConfig& config) {
  const ModelConfig plain;
  if (config.query_style != QueryStyle::mlp) {
    config.query_mlp_layers = plain.query_mlp_layers;
    config.query_activation = plain.query_activation;
  }
  if (config.query_style != QueryStyle::learned) config.shared_learned_query = false;
}

}  // namespace

ModelConfig comparable(ModelConfig config) {
  resolve(config);
  std::sort(config.extra_cross_attention_after.begin(), config.extra_cross_attention_after.end());
  settle_heads(config);
  settle_rotation(config);
  settle_recurrence(config);
  settle_tables(config);
  settle_queries(config);
  forget_training(config);
  return config;
}

std::vector<std::string> differences(const ModelConfig& ours, const ModelConfig& theirs,
                                     const std::string& project) {
  const nlohmann::json mine = model_to_json(comparable(ours)), other = model_to_json(comparable(theirs));
  std::vector<std::string> all;
  for (const auto& [key, value] : mine.items())
    if (value != other.at(key))
      all.push_back(
          fmt::format("model.{} is {}; {} would need {}", key, value.dump(), project, other.at(key).dump()));
  return all;
}

}  // namespace perceiver
