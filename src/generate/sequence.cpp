#include "generate/sequence.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace perceiver {
namespace {

void check_tokens(const ModelConfig& config, const EngineOptions& options,
                  const std::vector<int32_t>& tokens) {
  const auto length = static_cast<int64_t>(tokens.size());
  if (length == 0) throw_user("the prompt is empty; it must at least contain SOS");
  for (int64_t i = 0; i < length; ++i)
    if (tokens[i] <= 0 || tokens[i] >= config.vocabulary)
      throw_user("prompt token {}: id {} outside 1 to {}", i, tokens[i], config.vocabulary - 1);
  if (options.context_end == ContextEnd::stop && length > config.context_length)
    throw_user(
        "the prompt has {} tokens, the context holds {}; shorten it, or allow the oldest to be dropped",
        length, config.context_length);
}

void check_biases(const ModelConfig& config, const std::vector<std::vector<float>>& biases) {
  for (const auto& bias : biases) {
    if (static_cast<int64_t>(bias.size()) != config.vocabulary)
      throw_user("{} logit biases for a vocabulary of {}", bias.size(), config.vocabulary);
    for (const float value : bias)
      if (std::isnan(value) || value == INFINITY)
        throw_user("a logit bias is {}; it must be a number or -infinity", value);
  }
}

/// Rows of the table that positions of `axis` index.
int64_t position_rows(const PerceiverAR& model, int64_t axis) {
  const ModelConfig& config = model.config();
  if (!config.has_position_tables()) return model.rotary_positions();
  if (config.position_sizes.empty()) return config.context_length + 2;
  return config.position_sizes[static_cast<size_t>(axis)];
}

void check_positions(const PerceiverAR& model, const Sequence& sequence) {
  const ModelConfig& config = model.config();
  const int64_t axes = config.axes();
  if (sequence.positions.empty()) {
    if (axes != 1) throw_user("this model's positions have {} axes; give the positions of every token", axes);
    return;
  }
  if (config.position_source != PositionSource::data)
    throw_user("positions were given, but this model counts them itself (model.position_source)");
  const auto given = static_cast<int64_t>(sequence.positions.size());
  const auto length = static_cast<int64_t>(sequence.tokens.size());
  if (given % axes != 0 || given / axes < length)
    throw_user("{} positions of {} axes do not cover the prompt's {} tokens", given / axes, axes, length);
  if (config.recurrent()) return;  // distances alone count: any positions of the data will do
  for (int64_t i = 0; i < given; ++i) {
    const int64_t rows = position_rows(model, i % axes);
    if (sequence.positions[i] < 0 || sequence.positions[i] >= rows)
      throw_user("token {}: position {} outside 0 to {} (axis {})", i / axes, sequence.positions[i], rows - 1,
                 i % axes);
  }
}

}  // namespace

void check_sequence(const PerceiverAR& model, const EngineOptions& options, const Sequence& sequence) {
  check_tokens(model.config(), options, sequence.tokens);
  check_biases(model.config(), sequence.biases);
  check_positions(model, sequence);
}

void exclude_unused_ids(Sequence& sequence, int64_t token_ids, int64_t vocabulary) {
  if (token_ids == vocabulary) return;
  if (sequence.biases.empty()) sequence.biases.emplace_back(static_cast<size_t>(vocabulary), 0.0f);
  for (auto& row : sequence.biases) std::fill(row.begin() + token_ids, row.end(), -INFINITY);
}

}  // namespace perceiver
