#include "config/validate.h"

#include <algorithm>
#include <set>

#include "base/check.h"

namespace perceiver {
namespace {

constexpr int64_t byte_vocabulary = 259;
constexpr int64_t smallest_vocabulary = 4;  // the special ids and one of data
/// Axes of absolute positions; the kernels sum at most this many tables and the token table.
constexpr int64_t most_axes = 8;

/// Throws "source: message" unless the condition holds.
class Checker {
 public:
  explicit Checker(std::string_view source) : source_(source) {}

  template <typename... Args>
  void require(bool condition, fmt::format_string<Args...> format, Args&&... args) const {
    if (!condition) throw_user("{}: {}", source_, fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  std::string_view source_;
};

bool is_transformer(const ModelConfig& model) {
  return model.decoder_only();
}

/// Of a model that is one, as configurations name it.
const char* transformer_type(const ModelConfig& model) {
  return model.recurrent() ? "transformer_xl" : "transformer";
}

void check_latents(const ModelConfig& model, const Checker& check) {
  check.require(model.latents <= model.context_length,
                "model.latents ({}) must not exceed model.context_length ({})", model.latents,
                model.context_length);
  check.require(model.latents % model.latents_per_position == 0,
                "model.latents ({}) must be a multiple of model.latents_per_position ({})", model.latents,
                model.latents_per_position);
  check.require(model.latents_per_position == 1 || !model.rotates(),
                "model.latents_per_position ({}) above 1 needs model.position_encoding: absolute",
                model.latents_per_position);
  check.require(model.train_input_positions <= model.context_length,
                "model.train_input_positions ({}) must not exceed model.context_length ({})",
                model.train_input_positions, model.context_length);
}

void check_heads(const ModelConfig& model, const Checker& check) {
  if (model.head_channels > 0) return;
  check.require(model.z_channels() % model.self_heads == 0,
                "model.self_heads ({}) must divide the latents' channels ({})", model.self_heads,
                model.z_channels());
  check.require(
      is_transformer(model) || model.cross_width() % model.cross_heads == 0,
      "model.cross_heads ({}) must divide the cross-attention's channels ({}, model.attention_width: {})",
      model.cross_heads, model.cross_width(), model.attention_width == AttentionWidth::kv ? "kv" : "q");
}

void check_rotary(const ModelConfig& model, const Checker& check) {
  check.require(
      model.position_sizes.size() <= 1,
      "model.position_sizes has {} axes but rotary positions have one; use model.position_encoding: absolute",
      model.position_sizes.size());
  check.require(model.self_width() / model.self_heads >= 2,
                "rotary positions need at least 2 channels per head; the self-attention has {}",
                model.self_width() / model.self_heads);
  check.require(is_transformer(model) || model.cross_width() / model.cross_heads >= 2,
                "rotary positions need at least 2 channels per head; the cross-attention has {}",
                model.cross_width() / model.cross_heads);
  check.require(model.rotary_base == 0 || model.rotary_base > 1,
                "model.rotary_base ({}) must be 0 or above 1", model.rotary_base);
  check.require(model.rotary_base == 0 || (model.max_wavelength == 0 && !model.query_offset),
                "model.rotary_base fixes the frequencies; model.max_wavelength must be 0 and "
                "model.query_offset false");
  check.require(model.rotary_layers <= model.layers,
                "model.rotary_layers ({}) must not exceed model.layers ({})", model.rotary_layers,
                model.layers);
  check.require(
      model.max_wavelength == 0 || model.max_wavelength >= static_cast<double>(model.context_length),
      "model.max_wavelength ({}) must be 0 or at least model.context_length ({})", model.max_wavelength,
      model.context_length);
}

void check_absolute(const ModelConfig& model, const Checker& check) {
  check.require(model.axes() <= most_axes, "model.position_sizes has {} axes; at most {} are supported",
                model.axes(), most_axes);
  check.require(
      model.position_source != PositionSource::terminal_relative_negated,
      "model.position_source: terminal_relative_negated has no rows in absolute tables; use rotary");
  check.require(model.position_source == PositionSource::data || model.axes() == 1,
                "model.position_source: terminal_relative gives one position per token, but "
                "model.position_sizes has {} axes",
                model.axes());
  check.require(!model.query_offset || model.rotates(),
                "model.query_offset needs model.position_encoding: rotary");
  check.require(model.rotates() || (model.rotary_base == 0 && model.rotary_layers == -1),
                "model.rotary_base and model.rotary_layers need model.position_encoding: rotary or both");
  // Data positions run from 1 (0 is padding), terminal-relative ones from 0.
  const int64_t rows = model.context_length + (model.position_source == PositionSource::data ? 1 : 0);
  check.require(
      model.position_sizes.size() != 1 || model.position_sizes[0] >= rows,
      "model.position_sizes ({}) is too small for model.context_length {}; at least {} rows are needed",
      model.position_sizes.empty() ? 0 : model.position_sizes[0], model.context_length, rows);
  const bool fixed_bands =
      model.position_table == PositionTable::sinusoidal || model.position_table == PositionTable::fourier;
  const int64_t fewest = model.position_table == PositionTable::sinusoidal ? 4 : 2;
  check.require(!fixed_bands || (model.input_channels % 2 == 0 && model.input_channels >= fewest),
                "model.input_channels ({}) must be even and at least {} for sinusoidal or fourier positions",
                model.input_channels, fewest);
}

void check_query(const ModelConfig& model, const Checker& check) {
  check.require(!model.shared_learned_query || model.query_style == QueryStyle::learned,
                "model.shared_learned_query needs model.query_style: learned");
  check.require(model.query_projection || model.query_style == QueryStyle::none,
                "model.query_projection: false needs model.query_style: none");
  check.require(model.query_projection || model.z_channels() == model.input_channels,
                "model.query_projection: false needs model.latent_channels ({}) equal to "
                "model.input_channels ({})",
                model.z_channels(), model.input_channels);
}

void check_output(const ModelConfig& model, const Checker& check) {
  check.require(!model.tied_output || model.recurrent() || model.z_channels() == model.input_channels,
                "model.tied_output needs model.latent_channels ({}) equal to model.input_channels ({})",
                model.z_channels(), model.input_channels);
}

void check_latent_keys(const ModelConfig& model, const Checker& check) {
  const bool prefix_dropout = model.context_dropout_from == ContextDropout::prefix;
  check.require(!is_transformer(model) || !prefix_dropout,
                "model.type: {} has no context; model.context_dropout_from must be tokens",
                transformer_type(model));
  check.require(
      !prefix_dropout || model.train_input_positions == 0,
      "model.context_dropout_from: prefix needs every position; model.train_input_positions must be 0");
  if (model.latent_keys == LatentKeys::tokens) return;
  check.require(!is_transformer(model),
                "model.type: {} has no cross-attention; model.latent_keys must be tokens",
                transformer_type(model));
  check.require(model.z_channels() == model.input_channels,
                "model.latent_keys: latents needs model.latent_channels ({}) equal to model.input_channels "
                "({}): both are projected by the same weights",
                model.z_channels(), model.input_channels);
  check.require(!model.query_offset,
                "model.latent_keys: latents rotates a token's query and key by the same position; "
                "model.query_offset must be false");
  check.require(
      model.latents_per_position == 1 && model.train_input_positions == 0,
      "model.latent_keys: latents needs a key for each latent; model.latents_per_position must be 1 "
      "and model.train_input_positions 0");
}

void check_extra_cross_attention(const ModelConfig& model, const Checker& check) {
  std::set<int64_t> seen;
  for (const int64_t layer : model.extra_cross_attention_after) {
    check.require(layer < model.layers,
                  "model.extra_cross_attention_after names layer {}, but layers are 0 to {}", layer,
                  model.layers - 1);
    if (layer == -1) continue;
    check.require(seen.insert(layer).second, "model.extra_cross_attention_after names layer {} twice", layer);
  }
}

/// cuDNN's causal mask needs every query to see all keys up to its own position. Batches are checked when
/// they come (model/attention_backend.h).
void check_attention(const ModelConfig& model, const Checker& check) {
  if (model.attention != AttentionBackend::cudnn) return;
  check.require(
      model.context_dropout == 0 && model.latent_dropout == 0 && model.train_input_positions == 0,
      "model.attention: cudnn cannot hide keys; set model.context_dropout, model.latent_dropout and "
      "model.train_input_positions to 0, or use model.attention: auto");
  check.require(
      model.latents_per_position == 1,
      "model.attention: cudnn needs model.latents_per_position: 1 (its causal mask has one query for "
      "each position); use model.attention: auto");
}

/// Transformer-XL has blocks of its own; what they cannot do must be left as it is by default.
void check_recurrent(const ModelConfig& model, const Checker& check) {
  const ModelConfig plain;
  check.require(model.memory_length > 0 || (!model.same_length && !model.zero_memory),
                "model.same_length and model.zero_memory need model.memory_length above 0");
  check.require(model.z_channels() % 2 == 0,
                "model.latent_channels ({}) must be even for model.type: transformer_xl", model.z_channels());
  check.require(model.position_encoding == plain.position_encoding && model.position_sizes.empty() &&
                    model.position_source == plain.position_source && !model.learnable_positions &&
                    model.max_wavelength == 0 && model.rotary_base == 0 && model.rotary_layers == -1 &&
                    !model.query_offset,
                "model.type: transformer_xl has relative positions; leave out the keys of others "
                "(model.position_encoding, position_source, position_sizes, learnable_positions, "
                "max_wavelength, rotary_base, rotary_layers, query_offset)");
  check.require(model.biases == Biases::all,
                "model.type: transformer_xl has biases in its MLPs alone; leave out model.biases");
  check.require(model.latent_dropout == 0, "model.type: transformer_xl needs model.latent_dropout: 0");
  check.require(model.attention == AttentionBackend::automatic,
                "model.type: transformer_xl has an attention of its own; model.attention must be auto");
  check.require(model.query_style == QueryStyle::none && model.query_projection,
                "model.type: transformer_xl takes its input as its latents; leave out model.query_style and "
                "model.query_projection");
}

void check_not_recurrent(const ModelConfig& model, const Checker& check) {
  check.require(model.memory_length == 0 && model.clamp_length == 0 && !model.same_length &&
                    model.shared_biases && !model.norm_first && !model.zero_memory &&
                    model.mlp_channels == 0 && model.attention_dropout == 0,
                "model.memory_length, clamp_length, same_length, shared_biases, norm_first, zero_memory, "
                "mlp_channels and attention_dropout are for model.type: transformer_xl");
}

/// A transformer has neither cross-attention nor a query that differs from its input.
void check_transformer(const ModelConfig& model, const Checker& check) {
  const char* type = transformer_type(model);
  check.require(model.latents == model.context_length,
                "model.type: {} needs model.latents ({}) equal to model.context_length ({}); leave it out",
                type, model.latents, model.context_length);
  check.require(model.extra_cross_attention_after.empty(),
                "model.type: {} has no cross-attention; model.extra_cross_attention_after must be empty",
                type);
  check.require(model.query_style != QueryStyle::learned,
                "model.type: {} takes its input as its latents; model.query_style cannot be learned", type);
  check.require(model.latents_per_position == 1, "model.type: {} needs model.latents_per_position: 1", type);
  check.require(model.context_projection != ContextProjection::table,
                "model.type: {} has no context to project; model.context_projection cannot be table", type);
  check.require(model.context_dropout == 0 && model.train_input_positions == 0,
                "model.type: {} has no cross-attention; model.context_dropout and "
                "model.train_input_positions must be 0",
                type);
}

/// Keys that would change nothing. Not asked of model files, which say the defaults of all keys, and older
/// ones anything.
void check_unused(const ModelConfig& model, const Checker& check) {
  if (!is_transformer(model)) return;
  const ModelConfig plain;
  check.require(model.cross_heads == plain.cross_heads && model.cross_widening == plain.cross_widening &&
                    model.attention_width == plain.attention_width &&
                    model.query_residual == plain.query_residual,
                "model.type: {} has no cross-attention; leave out model.cross_heads, cross_widening, "
                "attention_width and query_residual",
                transformer_type(model));
  check.require(!model.recurrent() || (model.rotary_fraction == plain.rotary_fraction &&
                                       model.rotary_head_fraction == plain.rotary_head_fraction),
                "model.type: transformer_xl has relative positions; leave out model.rotary_fraction and "
                "rotary_head_fraction");
}

void check_schedule(const Config& config, const Checker& check) {
  const ScheduleConfig& schedule = config.schedule;
  const bool steps = schedule.type == ScheduleType::steps;
  check.require(schedule.step_boundaries.size() == schedule.step_factors.size(),
                "schedule.step_boundaries has {} entries but schedule.step_factors has {}; they must match",
                schedule.step_boundaries.size(), schedule.step_factors.size());
  check.require(steps || schedule.step_boundaries.empty(),
                "schedule.step_boundaries needs schedule.type: steps");
  check.require(!steps || !schedule.step_boundaries.empty(),
                "schedule.type: steps needs schedule.step_boundaries");
  const auto& boundaries = schedule.step_boundaries;
  const bool rising =
      std::adjacent_find(boundaries.begin(), boundaries.end(), std::greater_equal<>()) == boundaries.end();
  check.require(rising, "schedule.step_boundaries must increase");
  const bool decays = schedule.type == ScheduleType::cosine || schedule.type == ScheduleType::linear;
  check.require(
      schedule.until == 0 || decays,
      "schedule.until needs schedule.type: cosine or linear; train.max_minutes ends a run of any type");
  check.require(schedule.until == 0 || schedule.decay_steps == 0,
                "schedule.until and schedule.decay_steps ({}) both say when the decay ends; leave out one",
                schedule.decay_steps);
  check.require(!decays || schedule.decay_steps == 0 || schedule.decay_steps > schedule.warmup_steps,
                "schedule.decay_steps ({}) must be greater than schedule.warmup_steps ({})",
                schedule.decay_steps, schedule.warmup_steps);
}

void check_data(const Config& config, const Checker& check) {
  const DataConfig& data = config.data;
  // Requirements of files are checked when they are opened (check_fits).
  const bool copy = data.type == "copy";
  const int64_t vocabulary = config.model.vocabulary;  // 0: whatever the data needs
  check.require(!copy || vocabulary == 0 || vocabulary >= byte_vocabulary,
                "model.vocabulary ({}) is too small for bytes; data.type copy needs {}", vocabulary,
                byte_vocabulary);
  check.require(!copy || config.model.axes() == 1,
                "data.type copy has one position axis, but model.position_sizes has {}", config.model.axes());
  // The last token of the sequence is only a target, so it needs no column.
  check.require(!copy || config.model.recurrent() || data.copy_length - 1 <= config.model.context_length,
                "data.copy_length ({}) must not exceed model.context_length + 1 ({})", data.copy_length,
                config.model.context_length + 1);
  check.require(data.validation_fraction + data.test_fraction < 1,
                "data.validation_fraction ({}) and data.test_fraction ({}) leave nothing to train on",
                data.validation_fraction, data.test_fraction);
}

void check_training(const Config& config, const Checker& check) {
  check.require(config.train.batch % config.train.micro_batches == 0,
                "train.batch ({}) must be a multiple of train.micro_batches ({})", config.train.batch,
                config.train.micro_batches);
  check.require(
      config.train.context_shards == 1 || config.model.type == ModelType::perceiver_ar,
      "train.context_shards ({}) needs model.type: perceiver_ar; a transformer has no context to share",
      config.train.context_shards);
  check.require(
      config.train.context_shards == 1 || config.model.attention != AttentionBackend::cudnn,
      "train.context_shards ({}) needs the joined log-sum-exp, which model.attention: cudnn does not give",
      config.train.context_shards);
  check.require(
      config.train.context_shards == 1 || config.model.latent_keys == LatentKeys::tokens,
      "train.context_shards ({}) needs model.latent_keys: tokens; the latents' keys change with every layer",
      config.train.context_shards);
  const OptimizerConfig& optimizer = config.optimizer;
  check.require(!optimizer.nesterov || (optimizer.type == OptimizerType::sgd && optimizer.momentum > 0),
                "optimizer.nesterov needs optimizer.type: sgd and optimizer.momentum above 0");
  check.require(optimizer.state == OptimizerState::float32 || optimizer.type == OptimizerType::adam ||
                    optimizer.type == OptimizerType::adamw,
                "optimizer.state: bfloat16 needs optimizer.type: adam or adamw");
  check.require(config.train.crops == Crops::uniform || !config.model.recurrent(),
                "train.crops must be uniform for model.type: transformer_xl, which reads whole documents");
  check.require(config.train.early_stopping == 0 || config.eval.every > 0,
                "train.early_stopping ({}) counts validations, so it needs eval.every above 0",
                config.train.early_stopping);
}

void check_evaluation(const Config& config, const Checker& check) {
  const ModelConfig& model = config.model;
  const int64_t latents = config.eval.latents > 0 ? config.eval.latents : model.latents;
  check.require(model.recurrent() || latents <= model.context_length,
                "eval.latents ({}) must not exceed model.context_length ({})", latents, model.context_length);
  check.require(latents % model.latents_per_position == 0,
                "eval.latents ({}) must be a multiple of model.latents_per_position ({})", latents,
                model.latents_per_position);
  check.require(config.eval.memory_length == 0 || model.recurrent(),
                "eval.memory_length ({}) needs model.type: transformer_xl", config.eval.memory_length);
  check.require(
      config.eval.memory_length == 0 || model.memory_length > 0,
      "eval.memory_length ({}) needs model.memory_length above 0: the model was trained without a memory",
      config.eval.memory_length);
  check.require(!model.recurrent() || config.eval.stride == 0,
                "eval.stride ({}) must be 0 for model.type: transformer_xl, which scores whole segments; set "
                "eval.latents to shorten them",
                config.eval.stride);
  if (model.recurrent()) return;
  check.require(!is_transformer(model) || latents == model.latents,
                "eval.latents cannot differ from model.context_length for model.type: transformer");
  check.require(config.eval.stride <= latents / model.latents_per_position,
                "eval.stride ({}) must not exceed the {} positions that evaluation predicts at a time",
                config.eval.stride, latents / model.latents_per_position);
}

}  // namespace

void resolve(ModelConfig& model) {
  model.latent_channels = model.z_channels();
  if (is_transformer(model) && model.latents == ModelConfig().latents) model.latents = model.context_length;
}

void resolve(Config& config) {
  resolve(config.model);
}

namespace {

void check_model(const ModelConfig& model, const Checker& check) {
  if (is_transformer(model)) check_transformer(model, check);
  if (model.recurrent()) {
    check_recurrent(model, check);
  } else {
    check_not_recurrent(model, check);
  }
  check_latents(model, check);
  check_heads(model, check);
  if (model.rotates()) check_rotary(model, check);
  if (model.has_position_tables()) check_absolute(model, check);
  check_output(model, check);
  check_latent_keys(model, check);
  check_query(model, check);
  check_attention(model, check);
  check_extra_cross_attention(model, check);
}

}  // namespace

void validate(const ModelConfig& model, std::string_view source) {
  const Checker check(source);
  check.require(model.vocabulary >= smallest_vocabulary, "model.vocabulary ({}) must be at least {}",
                model.vocabulary, smallest_vocabulary);
  check_model(model, check);
}

void validate(const Config& config, std::string_view source) {
  const Checker check(source);
  check_model(config.model, check);
  check_unused(config.model, check);
  check_data(config, check);
  check_training(config, check);
  check_schedule(config, check);
  check_evaluation(config, check);
}

}  // namespace perceiver
