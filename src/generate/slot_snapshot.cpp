#include "generate/slot_snapshot.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "config/save.h"
#include "core/read_tensor.h"
#include "io/checksum.h"
#include "io/json_document.h"

namespace perceiver {
namespace {

constexpr const char* kFormat = "perceiver-sequence";
constexpr int64_t kSampledElements = 1024;  // of each parameter, in the fingerprint

/// Rows [0, count) of a slot and layer in buffers [layers, slots, capacity, columns].
Tensor rows_of(const Tensor& buffers, int64_t layer, int64_t slot, int64_t count) {
  const int64_t slots = buffers.shape()[1], capacity = buffers.shape()[2], columns = buffers.shape()[3];
  return buffers.view((layer * slots + slot) * capacity * columns, {count, columns});
}

template <typename T>
std::vector<T> values_of(const SafetensorsFile& file, const std::string& name, const char* dtype) {
  const SafetensorsEntry* entry = file.find(name);
  if (entry == nullptr || entry->dtype != dtype)
    throw_user("{}: no {} tensor '{}'; is this a saved sequence?", file.source(), dtype, name);
  std::vector<T> values(file.bytes(*entry).size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), file.bytes(*entry).data(), values.size() * sizeof(T));
  return values;
}

int64_t count_of(const nlohmann::json& state, const std::string& key, int64_t most,
                 const std::string& source) {
  if (!state.is_object() || !state.contains(key) || !state[key].is_number_unsigned() ||
      state[key].get<uint64_t>() > static_cast<uint64_t>(most))
    throw_user("{}: '{}' of the saved sequence is not a count up to {}", source, key, most);
  return state[key].get<int64_t>();
}

double number_of(const nlohmann::json& state, const std::string& key, const std::string& source) {
  if (!state.contains(key) || !state[key].is_number())
    throw_user("{}: '{}' of the saved sequence is not a number", source, key);
  return state[key].get<double>();
}

/// Adds a tensor whose bytes `storage` keeps.
void add_bytes(SafetensorsWriter& writer, SnapshotStorage& storage, const std::string& name, DType type,
               const Shape& shape, std::vector<std::byte> bytes) {
  storage.push_back(std::move(bytes));
  writer.add(name, file_dtype(type), shape.vector(), storage.back());
}

template <typename T>
void add_values(SafetensorsWriter& writer, SnapshotStorage& storage, const char* name,
                const std::vector<T>& values) {
  const std::span<const std::byte> bytes = std::as_bytes(std::span<const T>(values));
  add_bytes(writer, storage, name, DTypeOf<T>::value, {static_cast<int64_t>(values.size())},
            {bytes.begin(), bytes.end()});
}

/// The rows that a slot uses in the caches of all layers, by name.
std::vector<std::pair<std::string, Tensor>> cached_rows(const Slots& slots, int64_t number) {
  const Slot& slot = slots[number];
  const DecodeCaches& caches = slots.caches();
  std::vector<std::pair<std::string, Tensor>> rows;
  if (slot.computed == 0 || !slots.keeps_cache()) return rows;
  for (int64_t layer = 0; layer < slots.config().layers; ++layer)
    rows.emplace_back("self." + std::to_string(layer), rows_of(caches.self_kv, layer, number, slot.latents));
  if (caches.context == 0) return rows;
  const int64_t context = slots.own_context(slot.context);
  if (caches.by_table()) {
    const Shape shape{context};
    rows.emplace_back("context.tokens", caches.context_tokens.view(number * caches.context, shape));
    rows.emplace_back("context.positions", caches.context_positions.view(number * caches.context, shape));
    return rows;
  }
  for (int64_t block = 0; block < caches.context_kv.shape()[0]; ++block)
    rows.emplace_back("context." + std::to_string(block), rows_of(caches.context_kv, block, number, context));
  return rows;
}

/// Identifies a model by its configuration, element type and some of its weights.
std::string fingerprint(const PerceiverAR& model) {
  Checksum checksum;
  const std::string config = model_to_json(model.config()).dump() + std::string(name_of(model.type()));
  checksum.update(std::as_bytes(std::span(config)));
  for (const ParameterInfo& info : model.parameters().infos()) {
    const bool wide = static_cast<bool>(model.parameters().values());
    const Tensor narrow = wide ? Tensor() : model.narrow_weight(info).values;
    const Tensor value = narrow ? narrow : model.parameters().value(info);
    const Tensor part = value.view(0, {std::min(kSampledElements, value.elements())}).on_host();
    checksum.update({static_cast<const std::byte*>(part.data()), part.bytes()});
  }
  return fmt::format("{:016x}", checksum.digest());
}

/// The sequence of a saved slot, unchecked.
Sequence read_sequence(const ModelConfig& config, const SafetensorsFile& file, const nlohmann::json& state) {
  const std::string& source = file.source();
  Sequence sequence;
  sequence.tokens = values_of<int32_t>(file, "tokens", "I32");
  sequence.positions = values_of<int32_t>(file, "positions", "I32");
  const std::vector<float> biases = values_of<float>(file, "biases", "F32");
  const auto vocabulary = static_cast<size_t>(config.vocabulary);
  for (size_t i = 0; i + vocabulary <= biases.size(); i += vocabulary)
    sequence.biases.emplace_back(biases.begin() + static_cast<int64_t>(i),
                                 biases.begin() + static_cast<int64_t>(i + vocabulary));
  kernels::SamplingParameters& s = sequence.settings;
  s.temperature = number_of(state, "temperature", source);
  s.top_p = number_of(state, "top_p", source);
  s.min_p = number_of(state, "min_p", source);
  s.repetition_penalty = number_of(state, "repetition_penalty", source);
  s.seed = std::strtoull(state.value("seed", std::string("0")).c_str(), nullptr, 10);
  s.sequence = static_cast<uint32_t>(count_of(state, "sequence", UINT32_MAX, source));
  s.top_k = static_cast<int32_t>(count_of(state, "top_k", INT32_MAX, source));
  s.allow_eos = static_cast<int32_t>(count_of(state, "may_end", 1, source));
  return sequence;
}

/// Whether nothing but the last token is still to be computed; or the whole prompt, or the rest of one that
/// is read step by step.
bool is_between_steps(const Slots& slots, const Slot& slot) {
  if (slot.computed == 0 || slot.computed + 1 == slot.length) return true;
  const int64_t latents = slot.computed * slots.config().latents_per_position;
  return slot.computed < slot.length && slot.chosen == 0 && slot.latents == latents;
}

/// Reads how far the slot has come.
void read_progress(const Slots& slots, const nlohmann::json& state, const std::string& source, Slot& slot) {
  const int64_t context = slots.config().context_length, latents = slots.options().latents;
  slot.computed = count_of(state, "computed", std::max<int64_t>(0, slot.length - 1), source);
  slot.first = count_of(state, "first", slot.computed, source);
  slot.context = count_of(state, "context", std::min(slot.computed, context), source);
  slot.latents = count_of(state, "latents_used", latents, source);
  slot.context_row = count_of(state, "context_row", context - 1, source);
  slot.latent_row = count_of(state, "latent_row", latents - 1, source);
  slot.chosen = count_of(state, "chosen", INT32_MAX, source);
  if (!is_between_steps(slots, slot))
    throw_user("{}: {} computed tokens of {} are impossible", source, slot.computed, slot.length);
  const int64_t reach = slots.caches().positions;
  if (reach > 0 && !slot.has_given_positions() && slot.computed - slot.first >= reach)
    throw_user("{}: 'first' of the saved sequence makes positions too large", source);
}

/// Throws unless the file comes from the same model and compatible options.
nlohmann::json read_state(const Slots& slots, const SafetensorsFile& file) {
  const std::string& source = file.source();
  const auto metadata = [&](const char* key) {
    const std::string* value = file.find_metadata(key);
    return value == nullptr ? std::string() : *value;
  };
  if (metadata("format") != kFormat) throw_user("{}: not a saved sequence", source);
  if (metadata("model") != fingerprint(slots.model()))
    throw_user("{}: saved with another model, or in another precision", source);
  const nlohmann::json state = parse_json_document(metadata("state"), source);
  const auto check_same = [&](const char* key, int64_t own) {
    const int64_t saved = count_of(state, key, INT32_MAX, source);
    if (saved != own) throw_user("{}: saved with {} '{}'; this generator has {}", source, saved, key, own);
  };
  check_same("latents", slots.options().latents);
  check_same("policy", static_cast<int64_t>(slots.options().policy));
  check_same("context_as_tokens", slots.caches().by_table() ? 1 : 0);
  return state;
}

/// A file holds the whole context.
void refuse_shared_context(const Slots& slots) {
  const int64_t ranks = context_ranks(slots.options());
  if (ranks > 1) throw_user("a sequence whose context {} ranks share cannot be saved or restored", ranks);
}

/// Whether all of a slot's values in `buffer` i32 [S, C] are in [0, below).
bool in_range(const Slots& slots, int64_t number, const Tensor& buffer, int64_t below) {
  const auto values =
      buffer.view(number * slots.caches().context, {slots[number].context}).to_host<int32_t>();
  return std::all_of(values.begin(), values.end(), [below](int32_t v) { return v >= 0 && v < below; });
}

}  // namespace

void save_slot(const Slots& slots, int64_t number, SafetensorsWriter& writer, SnapshotStorage& storage) {
  refuse_shared_context(slots);
  const Slot& slot = slots[number];
  PERCEIVER_ASSERT(slot.occupied && is_between_steps(slots, slot));
  const kernels::SamplingParameters& s = slot.settings;
  const nlohmann::ordered_json state{{"latents", slots.options().latents},
                                     {"policy", static_cast<int>(slots.options().policy)},
                                     {"context_as_tokens", slots.caches().by_table() ? 1 : 0},
                                     {"computed", slot.computed},
                                     {"first", slot.first},
                                     {"context", slot.context},
                                     {"latents_used", slot.latents},
                                     {"context_row", slot.context_row},
                                     {"latent_row", slot.latent_row},
                                     {"chosen", slot.chosen},
                                     {"temperature", s.temperature},
                                     {"top_p", s.top_p},
                                     {"min_p", s.min_p},
                                     {"repetition_penalty", s.repetition_penalty},
                                     {"seed", std::to_string(s.seed)},
                                     {"sequence", s.sequence},
                                     {"top_k", s.top_k},
                                     {"may_end", s.allow_eos}};
  writer.set_metadata("format", kFormat);
  writer.set_metadata("model", fingerprint(slots.model()));
  writer.set_metadata("state", state.dump());
  add_values(writer, storage, "tokens", slot.tokens);
  add_values(writer, storage, "positions", slot.positions);
  std::vector<float> biases;
  for (const auto& row : slot.biases) biases.insert(biases.end(), row.begin(), row.end());
  add_values(writer, storage, "biases", biases);
  for (const auto& [name, rows] : cached_rows(slots, number)) {
    std::vector<std::byte> bytes(rows.bytes());
    rows.copy_to_host(bytes);
    add_bytes(writer, storage, name, rows.dtype(), rows.shape(), std::move(bytes));
  }
}

Slot read_saved_slot(const Slots& slots, const SafetensorsFile& file) {
  refuse_shared_context(slots);
  const nlohmann::json state = read_state(slots, file);
  Sequence sequence = read_sequence(slots.config(), file, state);
  check_sequence(slots.model(), slots.options(), sequence);
  Slot slot = slot_of(std::move(sequence));
  read_progress(slots, state, file.source(), slot);
  return slot;
}

void read_cached_rows(const Slots& slots, int64_t number, const SafetensorsFile& file) {
  const std::string& source = file.source();
  for (const auto& [name, rows] : cached_rows(slots, number)) {
    const SafetensorsEntry* entry = file.find(name);
    if (entry == nullptr || entry->dtype != file_dtype(rows.dtype()) || entry->shape != rows.shape().vector())
      throw_user("{}: tensor '{}' is missing, or is not {} {}", source, name, file_dtype(rows.dtype()),
                 rows.shape().text());
    rows.copy_from_host(file.bytes(*entry));
  }
  const DecodeCaches& caches = slots.caches();
  if (!caches.by_table()) return;
  if (!in_range(slots, number, caches.context_tokens, slots.config().vocabulary) ||
      !in_range(slots, number, caches.context_positions, caches.positions))
    throw_user("{}: the context's tokens or positions are out of range", source);
}

void copy_cached_rows(const Slots& source, int64_t from, const Slots& target, int64_t to) {
  const auto source_rows = cached_rows(source, from), target_rows = cached_rows(target, to);
  for (size_t i = 0; i < source_rows.size(); ++i) target_rows[i].second.copy_from(source_rows[i].second);
  target.logits_of(to).copy_from(source.logits_of(from));
}

}  // namespace perceiver
