// PerceiverAR for generation: passes that write and read KV caches, and weights rounded to bf16. The fused
// step is in fused_step.cpp.
#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/worker_pool.h"
#include "core/bf16.h"
#include "distributed/communicator.h"
#include "kernels/dequantize.h"
#include "kernels/elementwise.h"
#include "kernels/sampling.h"
#include "model/context_share.h"
#include "model/perceiver_ar.h"
#include "ops/skinny_gemm.h"
#include "perceiver/experimental/host_values.h"

namespace perceiver {
namespace {

/// Appends the slots' new values to the ring buffer of the context's tokens or positions.
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

}  // namespace

CachePass PerceiverAR::CacheUse::of(LayerCache layer, bool self) const {
  CachePass pass;
  pass.layer = std::move(layer);
  pass.decode = slots != nullptr;
  pass.runs = runs;
  pass.newest = newest;
  if (!pass.decode) return pass;
  pass.active = self ? slots->active : context.active;
  pass.row = self ? slots->latent_row : context.context_row;
  pass.count = self ? slots->latent_count : context.context_count;
  return pass;
}

DecodeCaches PerceiverAR::make_caches(int64_t slots, int64_t latents, int64_t context, bool by_table,
                                      Communicator* context_group, std::optional<DType> type) const {
  const int64_t layers = config_.layers, blocks = static_cast<int64_t>(cross_.size());
  const bool rotary = config_.position_encoding == PositionEncoding::rotary,
             token_keys = config_.latent_keys == LatentKeys::tokens;
  PERCEIVER_ASSERT(slots > 0 && latents > 0 && (blocks == 0 || context > 0) &&
                   (!by_table || (rotary && token_keys)));
  const DType cached = type.value_or(type_);
  DecodeCaches caches;
  caches.slots = slots;
  caches.latents = latents;
  const bool shared = context_group != nullptr && context_group->size() > 1 && blocks > 0;
  caches.context_group = shared ? context_group : nullptr;
  const int64_t rows = shared ? shared_columns(context, 0, context_group->size()) : context;
  caches.context = blocks > 0 ? rows : 0;
  const RotaryTables tables = rotary_tables();
  caches.self_rotary = tables.self;
  caches.cross_rotary = tables.cross;
  caches.positions = tables.positions;
  // Zeros: rows not yet written must hold finite numbers.
  caches.self_kv = Tensor::zeros(*context_, cached, {layers, slots, latents, 2 * config_.self_width()});
  if (config_.recurrent()) caches.relative_positions = cached_positions(latents);
  if (blocks == 0) return caches;
  if (by_table) {
    caches.context_tokens = Tensor::zeros(*context_, DType::i32, {slots, rows});
    caches.context_positions = Tensor::zeros(*context_, DType::i32, {slots, rows});
  } else {
    caches.context_kv = Tensor::zeros(*context_, cached, {blocks, slots, rows, 2 * config_.cross_width()});
  }
  if (by_table || (rotary && token_keys && config_.vocabulary <= context))
    caches.context_table = project_table();
  return caches;
}

/// Projected positions of the distances within a cache of `rows` rows.
Tensor PerceiverAR::cached_positions(int64_t rows) const {
  ModelInputs inputs;
  inputs.latents = rows;
  encode_distances(inputs);
  return recurrent_.projected_positions(*context_, inputs.distances);
}

Tensor PerceiverAR::project_table() const {
  const int64_t blocks = static_cast<int64_t>(cross_.size()), row = 2 * config_.cross_width();
  std::vector<int32_t> ids(static_cast<size_t>(config_.vocabulary));
  std::iota(ids.begin(), ids.end(), 0);
  const Tensor all = Tensor::from_host<int32_t>(*context_, {config_.vocabulary}, ids);
  const Context context{.tables = {{.table = parameters_.unrounded(token_embedding_), .ids = all}}};
  const BlockPass pass{.batch = 1};  // without rotary tables, so that keys are not rotated
  const Tensor table = Tensor::empty(*context_, type_, {blocks, config_.vocabulary, row});
  for (int64_t block = 0; block < blocks; ++block) {
    Tape tape(*context_, false);
    const Variable rows = cross_[static_cast<size_t>(block)].keys_and_values(tape, context, pass, type_);
    table.view(block * config_.vocabulary * row, {config_.vocabulary, row}).copy_from(rows.value);
  }
  return table;
}

void PerceiverAR::prefill(const ModelInputs& inputs, const DecodeCaches* caches, int64_t slot,
                          const Tensor& logits) const {
  PERCEIVER_ASSERT(inputs.batch == 1 && logits.elements() == config_.vocabulary);
  PERCEIVER_ASSERT(caches == nullptr || inputs.context_group == caches->context_group);
  Tape tape(*context_, false);
  if (caches != nullptr && caches->by_table()) {
    const Shape row{inputs.columns};
    caches->context_tokens.view(slot * caches->context, row).copy_from(inputs.tokens);
    caches->context_positions.view(slot * caches->context, row).copy_from(inputs.rotary_positions);
  }
  std::optional<CacheUse> use;
  if (caches != nullptr) use.emplace(CacheUse{*caches, nullptr, {{slot, 0, 1}}});
  if (use && config_.recurrent())
    use->newest =
        std::min(caches->latents, inputs.memory_length + inputs.latents - inputs.first_keys.front());
  const Variable z = trunk(tape, inputs, Recompute::none, use ? &*use : nullptr);
  const int64_t channels = z.shape()[1];
  const Tensor last = z.value.view((inputs.latent_positions - 1) * channels, {1, channels});
  write_logits(tape, Tape::constant(last), logits);
}

void PerceiverAR::decode(const DecodeCaches& caches, const DecodeSlots& slots, const Tensor& logits,
                         const FusedStep* fused) const {
  PERCEIVER_ASSERT(logits.elements() == caches.slots * config_.vocabulary);
  Tape tape(*context_, false);
  if (fused != nullptr) return run_fused(tape, *fused, logits);
  const std::vector<SlotRun> runs = runs_of(caches, slots);
  if (runs.empty()) return;
  const int64_t vocabulary = config_.vocabulary;
  const Tensor all = Tensor::empty(*context_, logits.dtype(), {sequences(runs), vocabulary});
  decode_unfused(tape, caches, slots, runs, all);
  const auto rows = [vocabulary](const Tensor& of, int64_t first, int64_t count) {
    return of.view(first * vocabulary, {count, vocabulary}).data();
  };
  for (const SlotRun& run : runs)
    kernels::write_rows(tape.launch(), {.type = logits.dtype(),
                                        .slots = run.count,
                                        .copies = 1,
                                        .columns = vocabulary,
                                        .source = rows(all, run.sequence, run.count),
                                        .source_stride = vocabulary,
                                        .active = slots.active.as<int32_t>() + run.slot,
                                        .target = rows(logits, run.slot, run.count),
                                        .capacity = 1});
}

/// A GPU computes all slots: its step is recorded once, and idle rows cost it nothing.
std::vector<SlotRun> PerceiverAR::runs_of(const DecodeCaches& caches, const DecodeSlots& slots) const {
  std::vector<SlotRun> runs{{0, 0, caches.slots}};
  if (context_->is_cuda() || caches.context_group != nullptr) return runs;
  const int32_t* active = slots.active.as<int32_t>();
  runs.clear();
  int64_t sequences = 0;
  for (int64_t s = 0; s < caches.slots; ++s) {
    if (active[s] == 0) continue;
    if (s == 0 || active[s - 1] == 0) runs.push_back({s, sequences, 0});
    ++runs.back().count;
    ++sequences;
  }
  return runs;
}

Tensor PerceiverAR::of_runs(const Tensor& values, int64_t slots, const std::vector<SlotRun>& runs) const {
  if (sequences(runs) == slots) return values;
  const int64_t each = values.elements() / slots;
  const Tensor some = Tensor::empty(*context_, values.dtype(), {sequences(runs) * each});
  for (const SlotRun& run : runs) {
    const Shape shape{run.count * each};
    some.view(run.sequence * each, shape).copy_from(values.view(run.slot * each, shape));
  }
  return some;
}

DecodeSlots PerceiverAR::context_slots(Tape& tape, const DecodeCaches& caches,
                                       const DecodeSlots& slots) const {
  if (caches.context_group == nullptr) return slots;
  DecodeSlots own = slots;
  for (Tensor* field : {&own.active, &own.context_count, &own.context_row})
    *field = Tensor::empty(*context_, DType::i32, {caches.slots});
  kernels::share_slots(tape.launch(), {.slots = caches.slots,
                                       .rank = caches.context_group->rank(),
                                       .ranks = caches.context_group->size(),
                                       .active = slots.active.as<int32_t>(),
                                       .count = slots.context_count.as<int32_t>(),
                                       .row = slots.context_row.as<int32_t>(),
                                       .own_active = own.active.as<int32_t>(),
                                       .own_count = own.context_count.as<int32_t>(),
                                       .own_row = own.context_row.as<int32_t>()});
  return own;
}

/// The step as separate operations.
void PerceiverAR::decode_unfused(Tape& tape, const DecodeCaches& caches, const DecodeSlots& slots,
                                 const std::vector<SlotRun>& runs, const Tensor& logits) const {
  const auto some = [&](const Tensor& values) { return of_runs(values, caches.slots, runs); };
  ModelInputs inputs;
  inputs.batch = sequences(runs);
  inputs.columns = inputs.latent_positions = 1;
  inputs.latents = config_.latents_per_position;
  inputs.tokens = inputs.latent_tokens = some(slots.token);
  inputs.rotary_positions = some(slots.position);
  inputs.positions = config_.axes() == 1 ? inputs.rotary_positions : some(slots.positions);
  inputs.latent_table_positions = inputs.positions;
  inputs.latent_rotary_positions = some(slots.query_position);
  inputs.latent_rows = some(slots.zeros);
  inputs.context_group = caches.context_group;
  if (config_.same_length) inputs.window = config_.memory_length;
  tape.set_batch_invariant();
  const CacheUse use{caches, &slots, runs, 0, context_slots(tape, caches, slots)};
  if (caches.by_table()) {
    append_tokens(tape, caches, use.context, slots.token, caches.context_tokens);
    append_tokens(tape, caches, use.context, slots.position, caches.context_positions);
  }
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
  const std::vector<ops::LinearParameters*> blocks = block_linears();
  all.insert(all.end(), blocks.begin(), blocks.end());
  return all;
}

std::vector<ops::LinearParameters*> PerceiverAR::block_linears() {
  std::vector<ops::LinearParameters*> all;
  const auto add = [&all](const std::vector<ops::LinearParameters*>& some) {
    all.insert(all.end(), some.begin(), some.end());
  };
  for (CrossBlock& block : cross_) add(block.linears());
  for (SelfBlock& block : self_) add(block.linears());
  add(recurrent_.linears());
  return all;
}

void PerceiverAR::round_weights_to_bf16() {
  if (weight_type() == DType::bf16) return;
  if (!parameters_.values())
    throw_user("the weights have eight bits alone and cannot become bfloat16: load the model again");
  if (type_ != DType::f32 || context_->is_cuda())
    throw_user(
        "bfloat16 weights with float32 activations are for the CPU only; on a GPU use precision bfloat16");
  for (ops::LinearParameters* linear : linears()) {
    const Tensor& weight = linear->weight.value;
    linear->narrow_weight = Tensor::empty(*context_, DType::bf16, weight.shape());
    linear->narrow_scale = {};
    round_to_bf16(context_->workers(), weight, linear->narrow_weight);
  }
}

int64_t PerceiverAR::linear_bytes() const {
  size_t bytes = 0;
  for (const ops::LinearParameters* linear : const_cast<PerceiverAR*>(this)->linears()) {
    const Tensor& weight = ops::skinny_weight(*linear);
    bytes += weight.bytes();
    if (kernels::is_narrow(weight.dtype())) bytes += linear->narrow_scale.bytes();
  }
  return static_cast<int64_t>(bytes);
}

}  // namespace perceiver
