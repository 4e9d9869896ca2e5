// Copies of an engine's sequences: to other slots, and to files.
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "config/save.h"
#include "generate/engine.h"
#include "io/checksum.h"
#include "io/json_document.h"
#include "kernels/sampling.h"

namespace perceiver {
namespace {

constexpr const char* kFormat = "perceiver-sequence";
constexpr int64_t kSampledElements = 1024;  // of each parameter, to tell weights apart

std::string name_in_file(DType type) {
  switch (type) {
    case DType::f64:
      return "F64";
    case DType::f32:
      return "F32";
    case DType::bf16:
      return "BF16";
    case DType::i32:
      return "I32";
    case DType::u8:
      return "U8";
  }
  return "";
}

/// Rows [0, count) of slot `slot` of a ring tensor [layers, slots, capacity, columns] of layer `layer`.
Tensor rows_of(const Tensor& rings, int64_t layer, int64_t slot, int64_t count) {
  const int64_t slots = rings.shape()[1], capacity = rings.shape()[2], columns = rings.shape()[3];
  return rings.view((layer * slots + slot) * capacity * columns, {count, columns});
}

template <typename T>
std::vector<T> values_of(const SafetensorsFile& file, const std::string& name, const char* dtype) {
  const SafetensorsEntry* entry = file.find(name);
  if (entry == nullptr || entry->dtype != dtype)
    throw_user("{}: no {} tensor '{}'; is it a saved sequence?", file.source(), dtype, name);
  std::vector<T> values(file.bytes(*entry).size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), file.bytes(*entry).data(), values.size() * sizeof(T));
  return values;
}

int64_t count_of(const nlohmann::json& state, const std::string& key, int64_t most,
                 const std::string& source) {
  if (!state.is_object() || !state.contains(key) || !state[key].is_number_unsigned() ||
      state[key].get<uint64_t>() > static_cast<uint64_t>(most))
    throw_user("{}: '{}' of the saved sequence is no count up to {}", source, key, most);
  return state[key].get<int64_t>();
}

double number_of(const nlohmann::json& state, const std::string& key, const std::string& source) {
  if (!state.contains(key) || !state[key].is_number())
    throw_user("{}: '{}' of the saved sequence is no number", source, key);
  return state[key].get<double>();
}

/// Adds a tensor whose bytes `storage` keeps.
void add_bytes(SafetensorsWriter& writer, Engine::Storage& storage, const std::string& name, DType type,
               const Shape& shape, std::vector<std::byte> bytes) {
  storage.push_back(std::move(bytes));
  writer.add(name, name_in_file(type), shape.vector(), storage.back());
}

template <typename T>
void add_values(SafetensorsWriter& writer, Engine::Storage& storage, const char* name,
                const std::vector<T>& values) {
  const std::span<const std::byte> bytes = std::as_bytes(std::span<const T>(values));
  add_bytes(writer, storage, name, DTypeOf<T>::value, {static_cast<int64_t>(values.size())},
            {bytes.begin(), bytes.end()});
}

}  // namespace

std::vector<std::pair<std::string, Tensor>> Engine::ring_rows(int64_t number) const {
  const Slot& slot = slots_[static_cast<size_t>(number)];
  std::vector<std::pair<std::string, Tensor>> rows;
  if (slot.computed == 0 || !keeps_cache_) return rows;
  for (int64_t layer = 0; layer < config_.layers; ++layer)
    rows.emplace_back("self." + std::to_string(layer), rows_of(caches_.self_kv, layer, number, slot.latents));
  if (caches_.context == 0) return rows;
  if (caches_.by_table()) {
    const Shape shape{slot.context};
    rows.emplace_back("context.tokens", caches_.context_tokens.view(number * caches_.context, shape));
    rows.emplace_back("context.positions", caches_.context_positions.view(number * caches_.context, shape));
    return rows;
  }
  for (int64_t block = 0; block < caches_.context_kv.shape()[0]; ++block)
    rows.emplace_back("context." + std::to_string(block),
                      rows_of(caches_.context_kv, block, number, slot.context));
  return rows;
}

void Engine::copy(Engine& other, int64_t other_slot, int64_t number, uint64_t tag) {
  const auto lock = model_.context().exclusive();
  other.settle();
  const Slot& source = other.slots_[static_cast<size_t>(other_slot)];
  Slot& slot = slots_[static_cast<size_t>(number)];
  PERCEIVER_ASSERT(source.occupied && !slot.occupied && &other.model_ == &model_ &&
                   other.options_.latents == options_.latents && other.options_.context == options_.context &&
                   other.options_.policy == options_.policy);
  slot = source;
  slot.tag = tag;
  const auto from = other.ring_rows(other_slot), to = ring_rows(number);
  for (size_t i = 0; i < from.size(); ++i) to[i].second.copy_from(from[i].second);
  const Shape row{config_.vocabulary};
  logits_.view(number * config_.vocabulary, row)
      .copy_from(other.logits_.view(other_slot * config_.vocabulary, row));
  put_slot(number);
  active_.clear();
}

/// Tells models apart: their configuration, element type and some of their weights.
std::string Engine::fingerprint() const {
  Checksum checksum;
  const std::string config = model_to_json(config_).dump() + std::string(name_of(model_.type()));
  checksum.update(std::as_bytes(std::span(config)));
  for (const ParameterInfo& info : model_.parameters().infos()) {
    const Tensor value = model_.parameters().value(info);
    const Tensor part = value.view(0, {std::min(kSampledElements, value.elements())}).on_host();
    checksum.update({static_cast<const std::byte*>(part.data()), part.bytes()});
  }
  return fmt::format("{:016x}", checksum.digest());
}

void Engine::save(int64_t number, SafetensorsWriter& writer, Storage& storage) {
  const auto lock = model_.context().exclusive();
  settle();
  const Slot& slot = slots_[static_cast<size_t>(number)];
  PERCEIVER_ASSERT(slot.occupied && (slot.computed == 0 || slot.computed + 1 == slot.length));
  const kernels::SamplingParameters& s = slot.settings;
  const nlohmann::ordered_json state{{"latents", options_.latents},
                                     {"policy", static_cast<int>(options_.policy)},
                                     {"context_as_tokens", caches_.by_table() ? 1 : 0},
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
  writer.set_metadata("model", fingerprint());
  writer.set_metadata("state", state.dump());
  add_values(writer, storage, "tokens", slot.tokens);
  add_values(writer, storage, "positions", slot.positions);
  std::vector<float> biases;
  for (const auto& row : slot.biases) biases.insert(biases.end(), row.begin(), row.end());
  add_values(writer, storage, "biases", biases);
  for (const auto& [name, rows] : ring_rows(number)) {
    std::vector<std::byte> bytes(rows.bytes());
    rows.copy_to_host(bytes);
    add_bytes(writer, storage, name, rows.dtype(), rows.shape(), std::move(bytes));
  }
}

void Engine::restore(int64_t number, const SafetensorsFile& file, uint64_t tag) {
  const std::string& source = file.source();
  const auto metadata = [&](const char* key) {
    const std::string* value = file.find_metadata(key);
    return value == nullptr ? std::string() : *value;
  };
  if (metadata("format") != kFormat) throw_user("{}: no saved sequence", source);
  if (metadata("model") != fingerprint())
    throw_user("{}: saved with another model, or in another precision", source);
  const nlohmann::json state = parse_json_document(metadata("state"), source);
  const auto same = [&](const char* key, int64_t own) {
    if (count_of(state, key, INT32_MAX, source) != own)
      throw_user("{}: saved with another '{}' than the {} of this generator", source, key, own);
  };
  same("latents", options_.latents);
  same("policy", static_cast<int64_t>(options_.policy));
  same("context_as_tokens", caches_.by_table() ? 1 : 0);

  Sequence sequence;
  sequence.tokens = values_of<int32_t>(file, "tokens", "I32");
  sequence.positions = values_of<int32_t>(file, "positions", "I32");
  const std::vector<float> biases = values_of<float>(file, "biases", "F32");
  const auto vocabulary = static_cast<size_t>(config_.vocabulary);
  for (size_t i = 0; i + vocabulary <= biases.size(); i += vocabulary)
    sequence.biases.emplace_back(biases.begin() + static_cast<int64_t>(i),
                                 biases.begin() + static_cast<int64_t>(i + vocabulary));
  const auto length = static_cast<int64_t>(sequence.tokens.size());
  kernels::SamplingParameters& s = sequence.settings;
  s.temperature = number_of(state, "temperature", source);
  s.top_p = number_of(state, "top_p", source);
  s.min_p = number_of(state, "min_p", source);
  s.repetition_penalty = number_of(state, "repetition_penalty", source);
  s.seed = std::strtoull(state.value("seed", std::string("0")).c_str(), nullptr, 10);
  s.sequence = static_cast<uint32_t>(count_of(state, "sequence", UINT32_MAX, source));
  s.top_k = static_cast<int32_t>(count_of(state, "top_k", INT32_MAX, source));
  s.allow_eos = static_cast<int32_t>(count_of(state, "may_end", 1, source));
  Slot slot;
  slot.computed = count_of(state, "computed", std::max<int64_t>(0, length - 1), source);
  slot.first = count_of(state, "first", slot.computed, source);
  slot.context = count_of(state, "context", std::min(slot.computed, config_.context_length), source);
  slot.latents = count_of(state, "latents_used", options_.latents, source);
  slot.context_row = count_of(state, "context_row", config_.context_length - 1, source);
  slot.latent_row = count_of(state, "latent_row", options_.latents - 1, source);
  slot.chosen = count_of(state, "chosen", INT32_MAX, source);
  if (slot.computed != 0 && slot.computed + 1 != length)
    throw_user("{}: {} tokens of which {} are computed cannot be", source, length, slot.computed);
  const bool beyond =
      caches_.positions > 0 && sequence.positions.empty() && slot.computed - slot.first >= caches_.positions;
  if (beyond) throw_user("{}: 'first' of the saved sequence leaves positions that are too large", source);

  const auto lock = model_.context().exclusive();
  admit(number, std::move(sequence), tag);
  Slot& target = slots_[static_cast<size_t>(number)];
  target.computed = slot.computed, target.first = slot.first, target.context = slot.context;
  target.latents = slot.latents, target.context_row = slot.context_row, target.latent_row = slot.latent_row;
  target.chosen = slot.chosen;
  active_.clear();
  for (const auto& [name, rows] : ring_rows(number)) {
    const SafetensorsEntry* entry = file.find(name);
    if (entry == nullptr || entry->dtype != name_in_file(rows.dtype()) ||
        entry->shape != rows.shape().vector()) {
      release(number);
      throw_user("{}: tensor '{}' is missing, or is not {} {}", source, name, name_in_file(rows.dtype()),
                 rows.shape().text());
    }
    rows.copy_from_host(file.bytes(*entry));
  }
  if (!caches_.by_table()) return;
  const auto sound = [&](const Tensor& values, int64_t below) {
    const auto host = values.view(number * caches_.context, {target.context}).to_host<int32_t>();
    return std::all_of(host.begin(), host.end(), [below](int32_t v) { return v >= 0 && v < below; });
  };
  if (sound(caches_.context_tokens, config_.vocabulary) &&
      sound(caches_.context_positions, caches_.positions))
    return;
  release(number);
  throw_user("{}: the context's tokens or positions are out of range", source);
}

}  // namespace perceiver
