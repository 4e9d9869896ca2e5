#include "model/input_checks.h"

#include <atomic>

#include "base/check.h"
#include "model/input_columns.h"

namespace perceiver {
namespace {

void check_lengths(const ModelConfig& config, const Batch& batch) {
  if (batch.size < 1 || batch.length < 1)
    throw_user("empty batch: {} examples of {} tokens", batch.size, batch.length);
  const auto cells = static_cast<size_t>(batch.size * batch.length);
  PERCEIVER_ASSERT(batch.tokens.size() == cells && batch.targets.size() == cells &&
                   batch.lengths.size() == static_cast<size_t>(batch.size));
  PERCEIVER_ASSERT(batch.positions.size() == cells * static_cast<size_t>(batch.axes));
  if (config.recurrent()) return;  // has no positions
  if (config.position_source == PositionSource::data && batch.axes != config.axes())
    throw_user("the data has positions of {} axes, the model takes {} (model.position_sizes)", batch.axes,
               config.axes());
}

/// Whether the columns [begin, end) of example b hold ids of the vocabulary, and PAD where it should be.
bool tokens_are_valid(const ModelConfig& config, const Batch& batch, int64_t b, int64_t begin, int64_t end) {
  const auto vocabulary = static_cast<uint32_t>(config.vocabulary);
  const int32_t* tokens = batch.tokens.data() + b * batch.length;
  const int32_t* targets = batch.targets.data() + b * batch.length;
  bool valid = true;
  for (int64_t n = begin; n < end; ++n)
    valid &= static_cast<uint32_t>(tokens[n]) < vocabulary &&
             static_cast<uint32_t>(targets[n]) < vocabulary && (tokens[n] == 0) == (n >= batch.lengths[b]);
  return valid;
}

bool tokens_are_valid(DeviceContext& context, const ModelConfig& config, const Batch& batch) {
  std::atomic<bool> valid = true;
  for (int64_t b = 0; b < batch.size; ++b) {
    if (batch.lengths[b] < 0 || batch.lengths[b] > batch.length) return false;
    in_pieces(context, batch.length, [&](int64_t begin, int64_t end) {
      if (!tokens_are_valid(config, batch, b, begin, end)) valid = false;
    });
  }
  return valid;
}

void check_tokens(DeviceContext& context, const ModelConfig& config, const Batch& batch) {
  if (tokens_are_valid(context, config, batch)) return;
  for (int64_t b = 0; b < batch.size; ++b) {
    const int64_t length = batch.lengths[b];
    if (length < 0 || length > batch.length)
      throw_user("example {}: length {} outside 0 to {}", b, length, batch.length);
    for (int64_t n = 0; n < batch.length; ++n) {
      const int64_t cell = b * batch.length + n;
      const int32_t token = batch.tokens[cell], target = batch.targets[cell];
      if (token < 0 || token >= config.vocabulary || target < 0 || target >= config.vocabulary)
        throw_user("example {}, column {}: token id {} outside the vocabulary of {}", b, n,
                   token < 0 || token >= config.vocabulary ? token : target, config.vocabulary);
      if ((token == 0) != (n >= length))
        throw_user("example {}, column {}: PAD inside a row of length {}", b, n, length);
    }
  }
}

void check_positions(const ModelConfig& config, const Batch& batch) {
  if (!config.has_position_tables()) return;
  for (int64_t axis = 0; axis < config.axes(); ++axis) {
    const int64_t size =
        config.position_sizes.empty() ? config.context_length + 2 : config.position_sizes[axis];
    for (int64_t b = 0; b < batch.size; ++b) {
      for (int64_t n = 0; n < batch.lengths[b]; ++n) {
        const int32_t position = position_of(config, batch, b, n, axis);
        if (position < 0 || position >= size)
          throw_user("example {}, column {}: position {} outside the table of {} rows of axis {}", b, n,
                     position, size, axis);
      }
    }
  }
}

}  // namespace

void check_batch(DeviceContext& context, const ModelConfig& config, const Batch& batch) {
  check_lengths(config, batch);
  check_tokens(context, config, batch);
  check_positions(config, batch);
}

}  // namespace perceiver
