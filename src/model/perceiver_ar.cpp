#include "model/perceiver_ar.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <utility>

#include "base/check.h"
#include "core/host_values.h"
#include "kernels/elementwise.h"
#include "kernels/projection.h"
#include "kernels/sampling.h"
#include "model/positions.h"
#include "model/projection.h"

namespace perceiver {
namespace {

constexpr double kEmbeddingDeviation = 1.0;
constexpr double kLearnedQueryDeviation = 0.02;

bool is_formula(PositionTable table) {
  return table == PositionTable::sinusoidal || table == PositionTable::fourier;
}

Initialization position_initialization(const ModelConfig& config, int64_t size) {
  if (!is_formula(config.position_table)) return {Initializer::truncated_normal, kEmbeddingDeviation, {}};
  return {Initializer::values, 0,
          [kind = config.position_table, size, channels = config.input_channels](int64_t element) {
            return position_table_value(kind, size, channels, element / channels, element % channels);
          }};
}

/// The context ring of tokens, or of their positions, takes in the slots' new values.
void append_tokens(Tape& tape, const DecodeCaches& caches, const DecodeSlots& slots, const Tensor& values,
                   const Tensor& ring) {
  kernels::write_rows(tape.launch(), {.type = DType::i32,
                                      .slots = caches.slots,
                                      .copies = 1,
                                      .columns = 1,
                                      .source = values.data(),
                                      .source_stride = 1,
                                      .row = slots.context_row.as<int32_t>(),
                                      .active = slots.active.as<int32_t>(),
                                      .target = ring.data(),
                                      .capacity = caches.context});
}

/// A fixed position table, which is no parameter.
Tensor fixed_table(DeviceContext& context, DType type, const ModelConfig& config, int64_t size) {
  const Initialization values = position_initialization(config, size);
  const Tensor table = Tensor::empty(context, type, {size, config.input_channels});
  fill(table, values.value);
  return table;
}

}  // namespace

PerceiverAR::PerceiverAR(const ModelConfig& config, std::shared_ptr<DeviceContext> context, DType type)
    : config_(config), context_(std::move(context)), type_(type) {
  std::sort(config_.extra_cross_attention_after.begin(), config_.extra_cross_attention_after.end());
  declare();
  parameters_.allocate(*context_, type_);
  const std::vector<int64_t> sizes = position_table_sizes(config_);
  const bool trained = config_.learnable_positions || config_.position_table == PositionTable::learned;
  for (size_t axis = 0; axis < sizes.size(); ++axis) {
    if (!position_embeddings_[axis].value)
      position_embeddings_[axis] = Tape::constant(fixed_table(*context_, type_, config_, sizes[axis]));
    if (!trained) position_embeddings_[axis].gradient = nullptr;
  }
  extend_rotary_tables(0);
}

int64_t PerceiverAR::attention_width() const {
  return config_.attention_width == AttentionWidth::kv ? config_.input_channels : config_.z_channels();
}

void PerceiverAR::declare() {
  const int64_t e = config_.input_channels, z = config_.z_channels();
  const bool perceiver = config_.type == ModelType::perceiver_ar;
  parameters_.declare(token_embedding_, "token_embedding.weight", {config_.vocabulary, e},
                      {Initializer::truncated_normal, kEmbeddingDeviation, {}});
  const std::vector<int64_t> sizes = position_table_sizes(config_);
  position_embeddings_.resize(sizes.size());
  const bool stored = config_.learnable_positions || !is_formula(config_.position_table);
  for (size_t axis = 0; axis < sizes.size() && stored; ++axis)
    parameters_.declare(position_embeddings_[axis], "position_embedding." + std::to_string(axis) + ".weight",
                        {sizes[axis], e}, position_initialization(config_, sizes[axis]));

  if (config_.query_style == QueryStyle::learned) {
    const int64_t rows = config_.shared_learned_query ? 1 : config_.latents / config_.latents_per_position;
    parameters_.declare(learned_query_, "query.learned", {rows, z},
                        {Initializer::truncated_normal, kLearnedQueryDeviation, {}});
  } else {
    declare_linear(parameters_, query_linear_, "query.linear", e, z);
  }
  if (config_.latents_per_position > 1)
    parameters_.declare(index_encoding_, "query.index_encoding", {config_.latents_per_position, z},
                        {Initializer::truncated_normal, kLearnedQueryDeviation, {}});
  if (config_.query_style == QueryStyle::mlp)
    query_mlp_.resize(static_cast<size_t>(config_.query_mlp_layers));
  for (size_t i = 0; i < query_mlp_.size(); ++i)
    declare_linear(parameters_, query_mlp_[i], "query.mlp." + std::to_string(i), z, z);

  cross_.resize(perceiver ? 1 + config_.extra_cross_attention_after.size() : 0);
  for (size_t i = 0; i < cross_.size(); ++i)
    cross_[i].declare(parameters_, "cross." + std::to_string(i), config_);
  self_.resize(static_cast<size_t>(config_.layers));
  for (size_t i = 0; i < self_.size(); ++i)
    self_[i].declare(parameters_, "self." + std::to_string(i), config_);
  declare_norm(parameters_, output_norm_, "output.norm", z);
  declare_linear(parameters_, output_, "output.linear", z, config_.vocabulary,
                 config_.zero_initial_logits ? Initializer::zeros : Initializer::fan_in);
}

ModelInputs PerceiverAR::prepare(const Batch& batch, const PassOptions& options) const {
  ModelInputs inputs;
  prepare(batch, options, inputs);
  return inputs;
}

bool PerceiverAR::prepare(const Batch& batch, const PassOptions& options, ModelInputs& inputs) const {
  const auto places = [&inputs] {
    return std::array{inputs.tokens.data(),
                      inputs.positions.data(),
                      inputs.rotary_positions.data(),
                      inputs.latent_tokens.data(),
                      inputs.latent_table_positions.data(),
                      inputs.latent_rotary_positions.data(),
                      inputs.latent_rows.data(),
                      inputs.targets.data(),
                      inputs.cross.limit.data(),
                      inputs.cross.key_mask.data(),
                      inputs.self.first.data(),
                      inputs.self.limit.data(),
                      inputs.self.key_mask.data()};
  };
  const auto before = places();
  make_inputs(*context_, config_, batch, options, inputs);
  extend_rotary_tables(inputs.largest_position);
  make_fixed_positions(inputs);
  // Another pass, a validation between steps, may have replaced the tables since.
  const int64_t rows = rotary_positions();
  const bool new_tables = std::exchange(inputs.rotary_table_rows, rows) != rows;
  return new_tables || places() != before;
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
  if (config_.position_encoding != PositionEncoding::rotary) return;
  const std::lock_guard lock(tables_mutex_);
  if (rotary_.positions > largest) return;
  RotaryTables tables;
  // At least doubled, so that positions that creep up do not make new tables again and again.
  tables.positions = std::max({largest + 1, config_.context_length + 3, 2 * rotary_.positions});
  const auto table = [&](int64_t width, int64_t heads) {
    return make_rotary_table(*context_, type_, config_, heads, width / heads, tables.positions);
  };
  tables.self = table(config_.z_channels(), config_.self_heads);
  if (!cross_.empty()) tables.cross = table(attention_width(), config_.cross_heads);
  rotary_ = tables;
}

PerceiverAR::RotaryTables PerceiverAR::rotary_tables() const {
  const std::lock_guard lock(tables_mutex_);
  return rotary_;
}

Variable PerceiverAR::embed(Tape& tape, const Tensor& tokens, const Tensor& positions, int64_t rows) const {
  std::vector<ops::Lookup> lookups{{token_embedding_, tokens, 1, 0}};
  const auto axes = static_cast<int64_t>(position_embeddings_.size());
  for (int64_t axis = 0; axis < axes; ++axis)
    lookups.push_back({position_embeddings_[static_cast<size_t>(axis)], positions, axes, axis});
  return ops::embedding(tape, lookups, rows, type_);
}

Variable PerceiverAR::queries(Tape& tape, const ModelInputs& inputs) const {
  const int64_t rows = inputs.batch * inputs.latent_positions;
  Variable z;
  if (config_.query_style == QueryStyle::learned) {
    const ops::Lookup lookup{learned_query_, inputs.latent_rows, 1, 0};
    z = ops::embedding(tape, {&lookup, 1}, rows, type_);
  } else {
    z = ops::linear(tape, embed(tape, inputs.latent_tokens, inputs.latent_table_positions, rows),
                    query_linear_);
  }
  if (config_.latents_per_position > 1) z = ops::repeat_rows(tape, z, index_encoding_);
  for (const ops::LinearParameters& layer : query_mlp_)
    z = ops::linear(tape, z, layer, config_.query_activation);
  return z;
}

Context PerceiverAR::context_of(Tape& tape, const ModelInputs& inputs, const CacheUse* caches) const {
  const int64_t rows = inputs.batch * inputs.columns;
  const bool decode = caches != nullptr && caches->slots != nullptr;
  const Variable tokens = parameters_.unrounded(token_embedding_);
  if (decode && caches->caches.context_table) return {{}, {{tokens, inputs.tokens, 1, 0}}, {}};
  if (decode || !projects(inputs)) return {embed(tape, inputs.tokens, inputs.positions, rows), {}, {}};
  const auto axes = static_cast<int64_t>(position_embeddings_.size());
  if (axes == 0) return {{}, {{tokens, inputs.tokens, 1, 0}}, {}};
  Context context{{}, {{ops::center_rows(tape, tokens), inputs.tokens, 1, 0}}, {}};
  for (int64_t axis = 0; axis < axes; ++axis)
    context.tables.push_back(
        {centred_positions(tape, static_cast<size_t>(axis)), inputs.positions, axes, axis});
  context.rstd = ops::sum_rstd(tape, context.tables, rows, inputs.batch);
  return context;
}

Variable PerceiverAR::centred_positions(Tape& tape, size_t axis) const {
  if (!fixed_positions_.empty()) return Tape::constant(fixed_positions_[axis]);
  return ops::center_rows(tape, parameters_.unrounded(position_embeddings_[axis]));
}

CachePass PerceiverAR::CacheUse::of(LayerCache layer, bool self) const {
  CachePass pass;
  pass.layer = std::move(layer);
  pass.decode = slots != nullptr;
  pass.slot = slot;
  if (!pass.decode) return pass;
  pass.active = slots->active;
  pass.row = self ? slots->latent_row : slots->context_row;
  pass.count = self ? slots->latent_count : slots->context_count;
  return pass;
}

Variable PerceiverAR::trunk(Tape& tape, const ModelInputs& inputs, Recompute recompute,
                            const CacheUse* caches) const {
  tape.enter("input");
  // While decoding the tables stay where they were when the caches were made: a recorded step relies on it.
  const bool decode = caches != nullptr && caches->slots != nullptr;
  const RotaryTables rotary =
      decode ? RotaryTables{caches->caches.cross_rotary, caches->caches.self_rotary, 0} : rotary_tables();
  const BlockPass self_pass{inputs.batch,
                            inputs.self,
                            rotary.self,
                            inputs.latent_rotary_positions,
                            inputs.latent_rotary_positions,
                            config_.residual_dropout,
                            recompute,
                            nullptr};
  const BlockPass cross_pass{inputs.batch,
                             inputs.cross,
                             rotary.cross,
                             inputs.latent_rotary_positions,
                             inputs.rotary_positions,
                             config_.residual_dropout,
                             recompute,
                             nullptr};
  Variable z = queries(tape, inputs);
  Context context;
  if (!cross_.empty()) context = context_of(tape, inputs, caches);
  const auto read_context = [&](size_t block) {
    BlockPass pass = cross_pass;
    CachePass cache;
    if (caches != nullptr) {
      cache = caches->of(caches->caches.cross(static_cast<int64_t>(block)), false);
      pass.cache = &cache;
    }
    z = cross_[block].forward(tape, z, context, pass);
  };
  const auto mix = [&](size_t layer) {
    BlockPass pass = self_pass;
    CachePass cache;
    if (caches != nullptr) {
      cache = caches->of(caches->caches.self(static_cast<int64_t>(layer)), true);
      pass.cache = &cache;
    }
    z = self_[layer].forward(tape, z, pass);
  };
  if (!cross_.empty()) read_context(0);
  size_t next_extra = 0;
  const std::vector<int64_t>& extra = config_.extra_cross_attention_after;
  for (size_t layer = 0; layer < self_.size(); ++layer) {
    mix(layer);
    if (next_extra < extra.size() && extra[next_extra] == static_cast<int64_t>(layer))
      read_context(++next_extra);
  }
  tape.enter("output");
  z = ops::layer_norm(tape, z, output_norm_);
  return config_.latents_per_position > 1 ? ops::average_rows(tape, z, config_.latents_per_position) : z;
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

DecodeCaches PerceiverAR::make_caches(int64_t slots, int64_t latents, int64_t context, bool by_table) const {
  const int64_t layers = static_cast<int64_t>(self_.size()), blocks = static_cast<int64_t>(cross_.size());
  const bool rotary = config_.position_encoding == PositionEncoding::rotary;
  PERCEIVER_ASSERT(slots > 0 && latents > 0 && (blocks == 0 || context > 0) && (!by_table || rotary));
  DecodeCaches caches;
  caches.slots = slots;
  caches.latents = latents;
  caches.context = blocks > 0 ? context : 0;
  // Zeros: rows that no token was written to yet must hold finite numbers.
  const RotaryTables tables = rotary_tables();
  caches.self_rotary = tables.self;
  caches.cross_rotary = tables.cross;
  caches.positions = tables.positions;
  caches.self_kv = Tensor::zeros(*context_, type_, {layers, slots, latents, 2 * config_.z_channels()});
  if (blocks == 0) return caches;
  if (by_table) {
    caches.context_tokens = Tensor::zeros(*context_, DType::i32, {slots, context});
    caches.context_positions = Tensor::zeros(*context_, DType::i32, {slots, context});
  } else {
    caches.context_kv = Tensor::zeros(*context_, type_, {blocks, slots, context, 2 * attention_width()});
  }
  if (by_table || (rotary && config_.vocabulary <= context)) caches.context_table = project_table();
  return caches;
}

Tensor PerceiverAR::project_table() const {
  const int64_t blocks = static_cast<int64_t>(cross_.size()), row = 2 * attention_width();
  std::vector<int32_t> ids(static_cast<size_t>(config_.vocabulary));
  std::iota(ids.begin(), ids.end(), 0);
  const Tensor all = Tensor::from_host<int32_t>(*context_, {config_.vocabulary}, ids);
  const Context context{{}, {{parameters_.unrounded(token_embedding_), all, 1, 0}}, {}};
  BlockPass pass;  // without rotary tables: keys stay as they are
  pass.batch = 1;
  const Tensor table = Tensor::empty(*context_, type_, {blocks, config_.vocabulary, row});
  for (int64_t block = 0; block < blocks; ++block) {
    Tape tape(*context_, false);
    const Variable part = cross_[static_cast<size_t>(block)].keys_and_values(tape, context, pass, type_);
    table.view(block * config_.vocabulary * row, {config_.vocabulary, row}).copy_from(part.value);
  }
  return table;
}

void PerceiverAR::prefill(const ModelInputs& inputs, const DecodeCaches* caches, int64_t slot,
                          const Tensor& logits) const {
  PERCEIVER_ASSERT(inputs.batch == 1 && logits.elements() == config_.vocabulary);
  Tape tape(*context_, false);
  if (caches != nullptr && caches->by_table()) {
    const Shape row{inputs.columns};
    caches->context_tokens.view(slot * caches->context, row).copy_from(inputs.tokens);
    caches->context_positions.view(slot * caches->context, row).copy_from(inputs.rotary_positions);
  }
  std::optional<CacheUse> use;
  if (caches != nullptr) use.emplace(CacheUse{*caches, nullptr, slot});
  const Variable z = trunk(tape, inputs, Recompute::none, use ? &*use : nullptr);
  const int64_t channels = config_.z_channels();
  const Tensor last = z.value.view((inputs.latent_positions - 1) * channels, {1, channels});
  write_logits(tape, Tape::constant(last), logits);
}

void PerceiverAR::decode(const DecodeCaches& caches, const DecodeSlots& slots, const Tensor& logits,
                         const FusedStep* fused) const {
  PERCEIVER_ASSERT(logits.elements() == caches.slots * config_.vocabulary);
  Tape tape(*context_, false);
  if (fused != nullptr) return run_fused(tape, *fused, logits);
  const Tensor all = Tensor::empty(*context_, logits.dtype(), {caches.slots, config_.vocabulary});
  decode_unfused(tape, caches, slots, all);
  kernels::write_rows(tape.launch(), {.type = logits.dtype(),
                                      .slots = caches.slots,
                                      .copies = 1,
                                      .columns = config_.vocabulary,
                                      .source = all.data(),
                                      .source_stride = config_.vocabulary,
                                      .active = slots.active.as<int32_t>(),
                                      .target = logits.data(),
                                      .capacity = 1});
}

/// The step made of single operations.
void PerceiverAR::decode_unfused(Tape& tape, const DecodeCaches& caches, const DecodeSlots& slots,
                                 const Tensor& logits) const {
  ModelInputs inputs;
  inputs.batch = caches.slots;
  inputs.columns = inputs.latent_positions = 1;
  inputs.latents = config_.latents_per_position;
  inputs.tokens = inputs.latent_tokens = slots.token;
  inputs.positions = inputs.latent_table_positions = config_.axes() == 1 ? slots.position : slots.positions;
  inputs.rotary_positions = slots.position;
  inputs.latent_rotary_positions = slots.query_position;
  inputs.latent_rows = slots.zeros;
  tape.set_batch_invariant();
  if (caches.by_table()) {
    append_tokens(tape, caches, slots, slots.token, caches.context_tokens);
    append_tokens(tape, caches, slots, slots.position, caches.context_positions);
  }
  const CacheUse use{caches, &slots, 0};
  write_logits(tape, trunk(tape, inputs, Recompute::none, &use), logits);
}

void PerceiverAR::write_logits(Tape& tape, const Variable& z, const Tensor& logits) const {
  if (logits.dtype() == type_) return ops::skinny_gemm(tape, z.value, output_, logits);
  const Tensor rounded = Tensor::empty(*context_, type_, {z.shape()[0], config_.vocabulary});
  ops::skinny_gemm(tape, z.value, output_, rounded);
  kernels::cast(tape.launch(), {.from = type_,
                                .to = logits.dtype(),
                                .elements = rounded.elements(),
                                .x = rounded.data(),
                                .y = logits.data()});
}

std::vector<ops::LinearParameters*> PerceiverAR::linears() {
  std::vector<ops::LinearParameters*> all{&output_};
  if (query_linear_.weight.value) all.push_back(&query_linear_);
  for (ops::LinearParameters& layer : query_mlp_) all.push_back(&layer);
  const auto add = [&all](const std::vector<ops::LinearParameters*>& some) {
    all.insert(all.end(), some.begin(), some.end());
  };
  for (CrossBlock& block : cross_) add(block.linears());
  for (SelfBlock& block : self_) add(block.linears());
  return all;
}

void PerceiverAR::round_weights_to_bf16() {
  if (type_ == DType::bf16) return;
  if (type_ != DType::f32 || context_->is_cuda())
    throw_user("weights in bfloat16 beside float32 are of the CPU; on a GPU compute in bfloat16");
  for (ops::LinearParameters* linear : linears()) {
    const Tensor& weight = linear->weight.value;
    linear->narrow = Tensor::empty(*context_, DType::bf16, weight.shape());
    round_to_bf16(weight, linear->narrow);
  }
}

int64_t PerceiverAR::linear_bytes() const {
  size_t bytes = 0;
  for (const ops::LinearParameters* linear : const_cast<PerceiverAR*>(this)->linears())
    bytes += (linear->narrow ? linear->narrow : linear->weight.value).bytes();
  return static_cast<int64_t>(bytes);
}

}  // namespace perceiver
