#include "generate/slots.h"

#include <algorithm>

#include "base/check.h"
#include "distributed/communicator.h"
#include "model/context_share.h"

namespace perceiver {
namespace {

constexpr int64_t kLeastSparePositions = 1024;  // beyond the context, before positions must be rebased

template <typename T>
void upload(const Tensor& tensor, const std::vector<T>& values) {
  tensor.copy_from_host(std::as_bytes(std::span<const T>(values)));
}

}  // namespace

Slot slot_of(Sequence sequence) {
  Slot slot;
  slot.length = static_cast<int64_t>(sequence.tokens.size());
  slot.tokens = std::move(sequence.tokens);
  slot.positions = std::move(sequence.positions);
  slot.settings = sequence.settings;
  slot.biases = std::move(sequence.biases);
  return slot;
}

Slots::Slots(const PerceiverAR& model, const EngineOptions& options)
    : model_(model), options_(options), keeps_cache_(perceiver::keeps_cache(model.config())) {
  const int64_t context_length = config().context_length, vocabulary = config().vocabulary;
  model_.extend_rotary_tables(context_length + std::max(kLeastSparePositions, context_length));
  check_memory(model_, options_);
  device_ = DecodeSlots::make(context(), config(), count());
  if (keeps_cache_)
    caches_ = model_.make_caches(count(), options_.latents, context_length,
                                 options_.context == ContextProjection::table, options_.context_group,
                                 cache_type(model_, options_));
  logits_ = Tensor::zeros(context(), accumulation_type(model_.type()), {count(), vocabulary});
  sampling_ = Tensor::zeros(context(), DType::u8, {count(), sizeof(kernels::SamplingParameters)});
  seen_ = Tensor::zeros(context(), DType::u8, {count(), vocabulary});
  slots_.resize(static_cast<size_t>(count()));
}

int64_t Slots::own_context(int64_t rows) const {
  const Communicator* group = caches_.context_group;
  return group == nullptr ? rows : shared_columns(rows, group->rank(), group->size());
}

Tensor Slots::logits_of(int64_t slot) const {
  return logits_.view(slot * config().vocabulary, {config().vocabulary});
}

int32_t Slots::position_of(const Slot& slot, int64_t token, int64_t axis) const {
  if (!slot.has_given_positions()) return static_cast<int32_t>(token + 1 - slot.first);
  return slot.positions[static_cast<size_t>(token * config().axes() + axis)];
}

bool Slots::slides(const Slot& slot) const {
  return slot.computed - slot.first >= config().context_length;
}

bool Slots::slides_positions(const Slot& slot) const {
  return slides(slot) && config().has_position_tables() && !slot.has_given_positions();
}

bool Slots::ended(const Slot& slot) const {
  const bool stops = options_.context_end == ContextEnd::stop && slot.length > config().context_length;
  const bool unplaced = slot.has_given_positions() &&
                        slot.length * config().axes() >= static_cast<int64_t>(slot.positions.size());
  return stops || unplaced || slot.failed;
}

void Slots::admit(int64_t number, Slot content, uint64_t tag) {
  Slot& slot = (*this)[number];
  PERCEIVER_ASSERT(!slot.occupied);
  slot = std::move(content);
  slot.occupied = true;
  slot.tag = tag;
  slot.admission = ++admissions_;
  slot.watch = {};
  slot.edited = false;
}

void Slots::grow_biases(int64_t rows) {
  bias_rows_ = rows;
  biases_ = Tensor::zeros(context(), DType::f32, {count() * rows, config().vocabulary});
  for (int64_t s = 0; s < count(); ++s)
    if ((*this)[s].occupied && !(*this)[s].biases.empty()) write_sampling(s);
}

void Slots::write_sampling(int64_t number) {
  Slot& slot = (*this)[number];
  const int64_t vocabulary = config().vocabulary;
  std::vector<uint8_t> seen(static_cast<size_t>(vocabulary), 0);
  for (const int32_t token : slot.tokens) seen[static_cast<size_t>(token)] = 1;
  upload(seen_.view(number * vocabulary, {vocabulary}), seen);
  const auto rows = static_cast<int64_t>(slot.biases.size());
  PERCEIVER_ASSERT(rows <= bias_rows_);
  slot.settings.bias_row = rows == 0 ? -1 : static_cast<int32_t>(number * bias_rows_);
  slot.settings.bias_period = static_cast<int32_t>(std::max<int64_t>(1, rows));
  for (int64_t r = 0; r < rows; ++r)
    upload(biases_.view((number * bias_rows_ + r) * vocabulary, {vocabulary}),
           slot.biases[static_cast<size_t>(r)]);
  slot.edited = false;
  upload_settings(number);
}

void Slots::upload_settings(int64_t number) {
  const kernels::SamplingParameters& settings = (*this)[number].settings;
  constexpr int64_t kBytes = sizeof settings;
  sampling_.view(number * kBytes, {kBytes}).copy_from_host(std::as_bytes(std::span(&settings, 1)));
}

void Slots::write_edit(int64_t number, const std::vector<double>& edit) {
  Slot& slot = (*this)[number];
  PERCEIVER_ASSERT(bias_rows_ > 0);
  std::vector<float> row(edit.begin(), edit.end());
  if (!slot.biases.empty()) {
    const std::vector<float>& own = slot.biases[static_cast<size_t>(slot.chosen) % slot.biases.size()];
    for (size_t v = 0; v < row.size(); ++v) row[v] += own[v];
  }
  upload(biases_.view(number * bias_rows_ * config().vocabulary, {config().vocabulary}), row);
  slot.settings.bias_row = static_cast<int32_t>(number * bias_rows_);
  slot.settings.bias_period = 1;
  slot.edited = true;
  upload_settings(number);
}

void Slots::push(int64_t number, int32_t token) {
  Slot& slot = (*this)[number];
  slot.tokens.push_back(token);
  ++slot.length;
  const uint8_t one = 1;
  seen_.view(number * config().vocabulary + token, {1}).copy_from_host(std::as_bytes(std::span(&one, 1)));
}

void Slots::write_decode_state(const std::vector<int64_t>& active, bool computed) {
  const auto slots = static_cast<size_t>(count());
  const int64_t copies = config().latents_per_position, axes = config().axes();
  const int64_t context = config().context_length, latents = options_.latents;
  std::vector<int32_t> fields(DecodeSlots::kFields * slots, 0),
      query_positions(slots * static_cast<size_t>(copies), 0),
      positions(slots * static_cast<size_t>(axes), 0);
  const int64_t back = computed ? 1 : 0;
  for (size_t s = 0; s < slots; ++s) {
    const Slot& slot = slots_[s];
    const int64_t token = slot.computed - back;
    const bool known = slot.occupied && token >= 0 && token < static_cast<int64_t>(slot.tokens.size());
    if (!known) continue;
    const bool is_active = std::find(active.begin(), active.end(), static_cast<int64_t>(s)) != active.end();
    const bool placed =
        !slot.has_given_positions() || (token + 1) * axes <= static_cast<int64_t>(slot.positions.size());
    const int32_t position = placed ? position_of(slot, token, 0) : 0;
    const int64_t values[] = {slot.tokens[static_cast<size_t>(token)],
                              position,
                              std::min(slot.context + 1 - back, context),
                              (slot.context_row + context - back) % context,
                              std::min(slot.latents + copies - back * copies, latents),
                              (slot.latent_row + latents - back * copies) % latents,
                              is_active ? 1 : 0,
                              slot.chosen};
    for (size_t f = 0; f < DecodeSlots::kFields; ++f) fields[f * slots + s] = static_cast<int32_t>(values[f]);
    for (int64_t c = 0; c < copies; ++c)
      query_positions[s * static_cast<size_t>(copies) + static_cast<size_t>(c)] =
          position + (config().query_offset ? 1 : 0);
    for (int64_t a = 0; a < axes && placed; ++a)
      positions[s * static_cast<size_t>(axes) + static_cast<size_t>(a)] = position_of(slot, token, a);
  }
  upload(device_.all, fields);
  upload(device_.query_position, query_positions);
  upload(device_.positions, positions);
}

void Slots::advance(const std::vector<int64_t>& slots) {
  const int64_t copies = config().latents_per_position;
  for (const int64_t s : slots) {
    Slot& slot = (*this)[s];
    ++slot.computed;
    slot.context = std::min(slot.context + 1, config().context_length);
    slot.context_row = (slot.context_row + 1) % config().context_length;
    slot.latents = std::min(slot.latents + copies, options_.latents);
    slot.latent_row = (slot.latent_row + copies) % options_.latents;
  }
}

}  // namespace perceiver
