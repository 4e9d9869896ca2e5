#include "model/perceiver_ar.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/check.h"
#include "kernels/projection.h"
#include "model/positions.h"
#include "model/projection.h"
#include "ops/projection.h"
#include "perceiver/experimental/host_values.h"

namespace perceiver {
namespace {

constexpr double kEmbeddingDeviation = 1.0;
constexpr double kRecurrentEmbeddingDeviation = 0.02;
constexpr double kLearnedQueryDeviation = 0.02;
// Large blocks start at multiples of this many elements, so that up to 512 ranks, a power of two, divide them
// without a rest (train/partition.h). Padding is at most 2% then.
constexpr int64_t kBlockPadding = 8192;
constexpr int64_t kLargeBlock = 1 << 19;

bool is_formula(PositionTable table) {
  return table == PositionTable::sinusoidal || table == PositionTable::fourier;
}

Initialization position_initialization(const ModelConfig& config, int64_t size) {
  if (!is_formula(config.position_table))
    return {.kind = Initializer::truncated_normal, .deviation = kEmbeddingDeviation};
  return {.kind = Initializer::values,
          .value = [kind = config.position_table, size, channels = config.input_channels](int64_t element) {
            return position_table_value(kind, size, channels, element / channels, element % channels);
          }};
}

/// A fixed position table, which is not a parameter.
Tensor fixed_table(DeviceContext& context, DType type, const ModelConfig& config, int64_t size) {
  const Initialization values = position_initialization(config, size);
  const Tensor table = Tensor::empty(context, type, {size, config.input_channels});
  fill(table, values.value);
  return table;
}

/// Of the GPU's kernels (kernels/cuda/attention/relative_attention.cu).
constexpr int64_t kWidestRelativeHead = 128;

void check_relative_heads(const ModelConfig& config, const DeviceContext& context) {
  const int64_t channels = config.self_width() / config.self_heads;
  if (config.recurrent() && context.is_cuda() && channels > kWidestRelativeHead)
    throw_user(
        "model.type: transformer_xl: heads of {} channels; a GPU computes up to {}: raise model.self_heads",
        channels, kWidestRelativeHead);
}

}  // namespace

PerceiverAR::PerceiverAR(const ModelConfig& config, std::shared_ptr<DeviceContext> context, DType type)
    : config_(config), context_(std::move(context)), type_(type) {
  if (config_.vocabulary == 0)
    throw_user("model.vocabulary is auto, and no data says how many ids there are; give a number");
  check_relative_heads(config_, *context_);
  std::sort(config_.extra_cross_attention_after.begin(), config_.extra_cross_attention_after.end());
  declare();
  parameters_.allocate(*context_, type_);
  if (config_.tied_output) output_.weight = token_embedding_;
  const std::vector<int64_t> sizes = position_table_sizes(config_);
  const bool trained = config_.learnable_positions || config_.position_table == PositionTable::learned;
  for (size_t axis = 0; axis < sizes.size(); ++axis) {
    if (!position_embeddings_[axis].value)
      position_embeddings_[axis] = Tape::constant(fixed_table(*context_, type_, config_, sizes[axis]));
    if (!trained) position_embeddings_[axis].gradient = nullptr;
  }
  extend_rotary_tables(0);
}

/// The parameters of a block, or of what follows the last, begin here.
void PerceiverAR::start_block() {
  const int64_t z = config_.z_channels();
  const int64_t block = 4 * z * config_.self_width() + 2 * config_.mlp_width() * z;
  if (block >= kLargeBlock) parameters_.pad(kBlockPadding);
  self_begin_.push_back(parameters_.size());
}

void PerceiverAR::declare() {
  const int64_t e = config_.input_channels, z = config_.z_channels();
  const bool perceiver = config_.type == ModelType::perceiver_ar, all_biases = config_.biases == Biases::all;
  parameters_.declare(token_embedding_, "token_embedding.weight", {config_.vocabulary, e},
                      {.kind = Initializer::truncated_normal,
                       .deviation = config_.recurrent() ? kRecurrentEmbeddingDeviation : kEmbeddingDeviation},
                      ParameterUse::table);
  if (config_.recurrent()) {
    recurrent_.declare(parameters_, config_, [this] { start_block(); });
    return declare_output(e);
  }
  const std::vector<int64_t> sizes = position_table_sizes(config_);
  position_embeddings_.resize(sizes.size());
  const bool stored = config_.learnable_positions || !is_formula(config_.position_table);
  for (size_t axis = 0; axis < sizes.size() && stored; ++axis)
    parameters_.declare(position_embeddings_[axis], "position_embedding." + std::to_string(axis) + ".weight",
                        {sizes[axis], e}, position_initialization(config_, sizes[axis]), ParameterUse::table);

  if (perceiver) {  // the projection of tables reads them
    parameters_.keep_unrounded(token_embedding_);
    for (size_t axis = 0; axis < sizes.size() && stored; ++axis)
      parameters_.keep_unrounded(position_embeddings_[axis]);
  }

  if (config_.query_style == QueryStyle::learned) {
    const int64_t rows = config_.shared_learned_query ? 1 : config_.latents / config_.latents_per_position;
    parameters_.declare(learned_query_, "query.learned", {rows, z},
                        {.kind = Initializer::truncated_normal, .deviation = kLearnedQueryDeviation},
                        ParameterUse::table);
  } else if (config_.query_projection) {
    declare_linear(parameters_, query_linear_, "query.linear", e, z, Initializer::fan_in, all_biases);
  }
  if (config_.latents_per_position > 1)
    parameters_.declare(index_encoding_, "query.index_encoding", {config_.latents_per_position, z},
                        {.kind = Initializer::truncated_normal, .deviation = kLearnedQueryDeviation},
                        ParameterUse::table);
  if (config_.query_style == QueryStyle::mlp)
    query_mlp_.resize(static_cast<size_t>(config_.query_mlp_layers));
  for (size_t i = 0; i < query_mlp_.size(); ++i)
    declare_linear(parameters_, query_mlp_[i], "query.mlp." + std::to_string(i), z, z, Initializer::fan_in,
                   all_biases);

  cross_.resize(perceiver ? 1 + config_.extra_cross_attention_after.size() : 0);
  for (size_t i = 0; i < cross_.size(); ++i)
    cross_[i].declare(parameters_, "cross." + std::to_string(i), config_);
  self_.resize(static_cast<size_t>(config_.layers));
  for (size_t i = 0; i < self_.size(); ++i) {
    start_block();
    self_[i].declare(parameters_, "self." + std::to_string(i), config_);
  }
  start_block();
  if (config_.output_norm) declare_norm(parameters_, output_norm_, "output.norm", z);
  declare_output(z);
}

void PerceiverAR::declare_output(int64_t channels) {
  if (!config_.tied_output)
    parameters_.declare(output_.weight, "output.linear.weight", {config_.vocabulary, channels},
                        {.kind = config_.zero_initial_logits ? Initializer::zeros : Initializer::fan_in},
                        ParameterUse::output);
  if (config_.output_bias)
    parameters_.declare(output_.bias, "output.linear.bias", {config_.vocabulary},
                        {.kind = Initializer::zeros});
}

ModelInputs PerceiverAR::prepare(const Batch& batch, const PassOptions& options) const {
  ModelInputs inputs;
  prepare(batch, options, inputs);
  return inputs;
}

bool PerceiverAR::prepare(const Batch& batch, const PassOptions& options, ModelInputs& inputs) const {
  const auto places = [&inputs] {
    std::vector<const void*> all{inputs.tokens.data(),
                                 inputs.positions.data(),
                                 inputs.rotary_positions.data(),
                                 inputs.latent_tokens.data(),
                                 inputs.latent_table_positions.data(),
                                 inputs.latent_rotary_positions.data(),
                                 inputs.latent_rows.data(),
                                 inputs.latent_columns.data(),
                                 inputs.targets.data(),
                                 inputs.cross.limit.data(),
                                 inputs.cross.key_mask.data(),
                                 inputs.self.first.data(),
                                 inputs.self.limit.data(),
                                 inputs.self.key_mask.data(),
                                 inputs.remembered.data(),
                                 inputs.first_key.data(),
                                 inputs.distances.data()};
    for (const Tensor& mask : inputs.extra_key_masks) all.push_back(mask.data());
    return all;
  };
  const auto before = places();
  make_inputs(*context_, config_, batch, options, inputs);
  if (config_.recurrent()) encode_distances(inputs);
  extend_rotary_tables(inputs.largest_position);
  make_fixed_positions(inputs);
  // Another pass, such as a validation between steps, may have replaced the tables.
  const int64_t rows = rotary_positions();
  const bool new_tables = std::exchange(inputs.rotary_table_rows, rows) != rows;
  return new_tables || places() != before;
}

void PerceiverAR::encode_distances(ModelInputs& inputs) const {
  const int64_t channels = config_.z_channels();
  int64_t rows = inputs.memory_length + inputs.latents;
  if (config_.clamp_length > 0) rows = std::min(rows, config_.clamp_length + 1);
  const std::lock_guard lock(tables_mutex_);
  const int64_t have = distances_ ? distances_.shape()[0] : 0;
  if (have < rows) distances_ = encoded_distances(*context_, type_, std::max(rows, 2 * have), channels);
  inputs.distances = distances_.view(0, {rows, channels});
}

void PerceiverAR::make_fixed_positions(const ModelInputs& inputs) const {
  if (!has_fixed_positions(config_) || !projects(inputs)) return;
  const std::lock_guard lock(tables_mutex_);
  if (!fixed_positions_.empty()) return;
  const DType wide = accumulation_type(type_);
  for (const int64_t size : position_table_sizes(config_)) {
    const Tensor table = fixed_table(*context_, wide, config_, size);
    kernels::center_rows(context_->launch(), {.type = wide,
                                              .rows = size,
                                              .columns = config_.input_channels,
                                              .x = table.data(),
                                              .y = table.data()});
    fixed_positions_.push_back(table);
  }
}

bool PerceiverAR::projects(const ModelInputs& inputs) const {
  return projects_tables(config_, inputs.batch * inputs.columns, type_);
}

void PerceiverAR::extend_rotary_tables(int64_t largest) const {
  if (!config_.rotates()) return;
  const std::lock_guard lock(tables_mutex_);
  if (rotary_.positions > largest) return;
  RotaryTables tables;
  // At least doubled, so that slowly growing positions do not rebuild the tables again and again.
  tables.positions = std::max({largest + 1, config_.context_length + 3, 2 * rotary_.positions});
  const auto table = [&](int64_t width, int64_t heads) {
    return make_rotary_table(*context_, type_, config_, heads, width / heads, tables.positions);
  };
  tables.self = table(config_.self_width(), config_.self_heads);
  if (!cross_.empty()) tables.cross = table(config_.cross_width(), config_.cross_heads);
  rotary_ = tables;
}

PerceiverAR::RotaryTables PerceiverAR::rotary_tables() const {
  const std::lock_guard lock(tables_mutex_);
  return rotary_;
}

Variable PerceiverAR::embed(Tape& tape, const Tensor& tokens, const Tensor& positions, int64_t rows) const {
  std::vector<ops::Lookup> lookups{{.table = token_embedding_, .ids = tokens}};
  const auto axes = static_cast<int64_t>(position_embeddings_.size());
  for (int64_t axis = 0; axis < axes; ++axis)
    lookups.push_back({.table = position_embeddings_[static_cast<size_t>(axis)],
                       .ids = positions,
                       .stride = axes,
                       .column = axis});
  return ops::embedding(tape, lookups, rows, type_);
}

Variable PerceiverAR::queries(Tape& tape, const ModelInputs& inputs) const {
  const int64_t rows = inputs.batch * inputs.latent_positions;
  Variable z;
  if (config_.query_style == QueryStyle::learned) {
    const ops::Lookup lookup{.table = learned_query_, .ids = inputs.latent_rows};
    z = ops::embedding(tape, {&lookup, 1}, rows, type_);
  } else {
    z = embed(tape, inputs.latent_tokens, inputs.latent_table_positions, rows);
    if (config_.query_projection) z = ops::linear(tape, z, query_linear_);
  }
  if (config_.latents_per_position > 1) z = ops::repeat_rows(tape, z, index_encoding_);
  for (const ops::LinearParameters& layer : query_mlp_)
    z = ops::linear(tape, z, layer, config_.query_activation);
  return z;
}

Context PerceiverAR::context_of(Tape& tape, const ModelInputs& inputs, const CacheUse* caches) const {
  const int64_t rows = inputs.batch * inputs.columns;
  const bool decode = caches != nullptr && caches->slots != nullptr;
  if (decode && config_.latent_keys == LatentKeys::latents) return {};
  const Variable tokens = parameters_.unrounded(token_embedding_);
  if (decode && caches->caches.context_table) return {.tables = {{.table = tokens, .ids = inputs.tokens}}};
  if (decode || !projects(inputs)) return {.x = embed(tape, inputs.tokens, inputs.positions, rows)};
  const auto axes = static_cast<int64_t>(position_embeddings_.size());
  if (axes == 0) return {.tables = {{.table = tokens, .ids = inputs.tokens}}};
  Context context{.tables = {{.table = ops::center_rows(tape, tokens), .ids = inputs.tokens}}};
  for (int64_t axis = 0; axis < axes; ++axis)
    context.tables.push_back({.table = centred_positions(tape, static_cast<size_t>(axis)),
                              .ids = inputs.positions,
                              .stride = axes,
                              .column = axis});
  context.rstd = ops::sum_rstd(tape, context.tables, rows, inputs.batch);
  return context;
}

Variable PerceiverAR::centred_positions(Tape& tape, size_t axis) const {
  if (!fixed_positions_.empty()) return Tape::constant(fixed_positions_[axis]);
  return ops::center_rows(tape, parameters_.unrounded(position_embeddings_[axis]));
}

Variable PerceiverAR::trunk(Tape& tape, const ModelInputs& inputs, Recompute recompute,
                            const CacheUse* caches) const {
  if (config_.recurrent()) return recurrent_trunk(tape, inputs, recompute, caches);
  tape.enter("input");
  // Decoding uses the tables from when the caches were made: a recorded step relies on their addresses.
  const bool decode = caches != nullptr && caches->slots != nullptr;
  const RotaryTables rotary =
      decode ? RotaryTables{.cross = caches->caches.cross_rotary, .self = caches->caches.self_rotary}
             : rotary_tables();
  const AttentionBackend attention = tape.training() ? config_.attention : AttentionBackend::automatic;
  const BlockPass self_pass{.batch = inputs.batch,
                            .mask = inputs.self,
                            .rotary = rotary.self,
                            .query_positions = inputs.latent_rotary_positions,
                            .key_positions = inputs.latent_rotary_positions,
                            .residual_dropout = config_.residual_dropout,
                            .recompute = recompute,
                            .attention = attention};
  const BlockPass cross_pass{.batch = inputs.batch,
                             .mask = inputs.cross,
                             .rotary = rotary.cross,
                             .query_positions = inputs.latent_rotary_positions,
                             .key_positions = inputs.rotary_positions,
                             .residual_dropout = config_.residual_dropout,
                             .recompute = recompute,
                             .attention = attention,
                             .latent_rows = inputs.latent_columns};
  Variable z = queries(tape, inputs);
  Context context;
  if (!cross_.empty()) context = context_of(tape, inputs, caches);
  const auto read_context = [&](size_t block) {
    BlockPass pass = cross_pass;
    if (block > 0 && !inputs.extra_key_masks.empty()) pass.mask.key_mask = inputs.extra_key_masks[block - 1];
    // The first reader of the context has no other below it.
    pass.key_shards = {.group = inputs.context_group, .replicates_d_q = block > 0};
    CachePass cache;
    if (caches != nullptr) {
      cache = caches->of(caches->caches.cross(static_cast<int64_t>(block)), false);
      pass.cache = &cache;
    }
    z = cross_[block].forward(tape, z, context, pass);
  };
  const auto mix = [&](size_t layer) {
    BlockPass pass = self_pass;
    const bool rotates = config_.rotary_layers < 0 || static_cast<int64_t>(layer) < config_.rotary_layers;
    if (!rotates) pass.rotary = {};
    CachePass cache;
    if (caches != nullptr) {
      cache = caches->of(caches->caches.self(static_cast<int64_t>(layer)), true);
      pass.cache = &cache;
    }
    tape.begin_parameters(self_begin_[layer]);
    z = self_[layer].forward(tape, z, pass);
  };
  if (!cross_.empty()) read_context(0);
  size_t next_extra = 0;
  const std::vector<int64_t>& extra = config_.extra_cross_attention_after;
  const auto read_again_after = [&](int64_t layer) {
    while (next_extra < extra.size() && extra[next_extra] == layer) read_context(++next_extra);
  };
  read_again_after(-1);
  for (size_t layer = 0; layer < self_.size(); ++layer) {
    mix(layer);
    read_again_after(static_cast<int64_t>(layer));
  }
  tape.begin_parameters(self_begin_.back());
  tape.enter("output");
  if (config_.output_norm) z = ops::layer_norm(tape, z, output_norm_);
  return config_.latents_per_position > 1 ? ops::average_rows(tape, z, config_.latents_per_position) : z;
}

Variable PerceiverAR::recurrent_trunk(Tape& tape, const ModelInputs& inputs, Recompute recompute,
                                      const CacheUse* caches) const {
  if (caches == nullptr)
    return recurrent_.trunk(tape, inputs, token_embedding_, self_begin_, recompute, nullptr);
  const TransformerXL::CacheUse use{
      caches->caches, [caches](int64_t layer) { return caches->of(caches->caches.self(layer), true); }};
  return recurrent_.trunk(tape, inputs, token_embedding_, self_begin_, recompute, &use);
}

ops::LossResult PerceiverAR::loss(Tape& tape, const ModelInputs& inputs, const ops::LossOptions& options,
                                  Recompute recompute) const {
  return ops::output_loss(tape, trunk(tape, inputs, recompute), output_, inputs.targets, options);
}

Tensor PerceiverAR::logits(const ModelInputs& inputs) const {
  Tape tape(*context_, false);
  const Variable z = trunk(tape, inputs, Recompute::none);
  return ops::linear(tape, z, output_)
      .value.reshaped({inputs.batch, inputs.latent_positions, config_.vocabulary});
}

Tensor PerceiverAR::latents(const ModelInputs& inputs) const {
  Tape tape(*context_, false);
  const Tensor z = trunk(tape, inputs, Recompute::none).value;
  return z.reshaped({inputs.batch, inputs.latent_positions, z.shape()[1]});
}

}  // namespace perceiver
