#include "train/model_difference.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "config/schema.h"

namespace perceiver {
namespace {

constexpr std::array<std::string_view, 18> kHarmless{"model.context_length",
                                                     "model.latents",
                                                     "model.position_sizes",
                                                     "model.max_wavelength",
                                                     "model.residual_dropout",
                                                     "model.context_dropout",
                                                     "model.latent_dropout",
                                                     "model.train_input_positions",
                                                     "model.zero_initial_logits",
                                                     "model.context_projection",
                                                     "model.attention",
                                                     "model.learnable_positions",
                                                     "model.context_dropout_from",
                                                     "model.memory_length",
                                                     "model.clamp_length",
                                                     "model.same_length",
                                                     "model.zero_memory",
                                                     "model.attention_dropout"};
constexpr std::array<std::string_view, 10> kPartial{
    "model.vocabulary",           "model.layers",           "model.extra_cross_attention_after",
    "model.query_style",          "model.query_mlp_layers", "model.query_activation",
    "model.shared_learned_query", "model.position_table",   "model.latents_per_position",
    "model.output_bias"};

bool among(const auto& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

double longest_wavelength(const ModelConfig& model) {
  return model.max_wavelength > 0 ? model.max_wavelength : static_cast<double>(model.context_length);
}

bool is_formula(const ModelConfig& model) {
  const bool formula =
      model.position_table == PositionTable::sinusoidal || model.position_table == PositionTable::fourier;
  return formula && !model.learnable_positions;
}

int64_t table_rows(const ModelConfig& model) {
  return model.position_sizes.empty() ? model.context_length + 2 : model.position_sizes[0];
}

void compare_ids(const ModelMetadata& checkpoint, const Dataset& data, ModelDifference& difference) {
  if (checkpoint.modality != data.modality()) {
    difference.partial.push_back(
        fmt::format("its tokens are {} there, {} here", checkpoint.modality, data.modality()));
  } else if (checkpoint.tokenizer != data.tokenizer()) {
    difference.partial.push_back(fmt::format(
        "its tokens were made by another tokenizer, or with other data.options ({})", checkpoint.modality));
  }
}

}  // namespace

ModelDifference compare_models(const ModelMetadata& checkpoint, const ModelConfig& configured,
                               const Dataset& data) {
  ModelDifference difference;
  compare_ids(checkpoint, data, difference);
  const bool same_ids = difference.partial.empty();
  Config before, after;
  before.model = checkpoint.model;
  after.model = configured;
  for (const ConfigKey& key : config_keys()) {
    if (key.section() != "model" || key.get(before) == key.get(after)) continue;
    const std::string text = fmt::format("{} is {} there, {} here", key.path, format_value(key.get(before)),
                                         format_value(key.get(after)));
    const bool harmless = among(kHarmless, key.path) || (same_ids && key.path == "model.vocabulary");
    (harmless                    ? difference.harmless
     : among(kPartial, key.path) ? difference.partial
                                 : difference.fatal)
        .push_back(text);
  }
  if (checkpoint.model.axes() != configured.axes())
    difference.partial.push_back(fmt::format("model.position_sizes has {} axes there, {} here",
                                             checkpoint.model.axes(), configured.axes()));
  return difference;
}

std::vector<std::string> position_remarks(const ModelConfig& checkpoint, const ModelConfig& configured) {
  std::vector<std::string> remarks;
  const double before = longest_wavelength(checkpoint), after = longest_wavelength(configured);
  if (configured.rotates() && configured.rotary_base == 0 && before != after) {
    const bool can_keep = before >= static_cast<double>(configured.context_length);
    remarks.push_back(fmt::format(
        "the longest rotary wavelength is {} positions instead of the checkpoint's {}; {}", after, before,
        can_keep ? fmt::format("model.max_wavelength={} would keep it", before)
                 : "it must cover the context, and the weights adapt to it within some steps"));
  }
  const bool fourier = configured.has_position_tables() &&
                       configured.position_table == PositionTable::fourier && is_formula(configured);
  if (fourier && table_rows(checkpoint) != table_rows(configured))
    remarks.push_back(
        fmt::format("fourier positions depend on the length of their table, which has {} rows instead of {}",
                    table_rows(configured), table_rows(checkpoint)));
  return remarks;
}

}  // namespace perceiver
