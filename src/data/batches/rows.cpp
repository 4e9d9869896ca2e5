#include "data/batches/rows.h"

#include <algorithm>

#include "base/check.h"
#include "perceiver/special_tokens.h"

namespace perceiver {
namespace {

/// Writes the length of the row, and PAD around the scored targets and after the row.
void finish_row(const Row& row, int64_t index, Batch& batch) {
  const int64_t n = batch.length;
  int32_t* tokens = batch.tokens.data() + index * n;
  int32_t* targets = batch.targets.data() + index * n;
  int32_t* positions = batch.positions.data() + index * n * batch.axes;
  std::fill(tokens + row.count, tokens + n, pad_token);
  std::fill(targets, targets + row.count - row.scored, pad_token);
  std::fill(targets + row.count, targets + n, pad_token);
  std::fill(positions + row.count * batch.axes, positions + n * batch.axes, 0);
  batch.lengths[index] = static_cast<int32_t>(row.count);
}

void check_row(const Row& row, int64_t index, const Batch& batch) {
  PERCEIVER_ASSERT(index >= 0 && index < batch.size);
  PERCEIVER_ASSERT(row.count >= 1 && row.count <= batch.length && row.scored >= 0 && row.scored <= row.count);
}

}  // namespace

void fill_row(const Dataset& data, Split split, const Row& row, int64_t index, Batch& batch) {
  check_row(row, index, batch);
  PERCEIVER_ASSERT(batch.axes == data.axes());
  const int64_t n = batch.length;
  int32_t* tokens = batch.tokens.data() + index * n;
  int32_t* targets = batch.targets.data() + index * n;
  data.read(split, row.document, row.first + 1, row.count, targets);
  data.read(split, row.document, row.first, 1, tokens);
  std::copy_n(targets, row.count - 1, tokens + 1);
  data.positions(split, row.document, row.first, row.count, batch.positions.data() + index * n * batch.axes);
  finish_row(row, index, batch);
}

void fill_row(const Dataset& data, Split split, std::span<const int32_t> row_tokens, const Row& row,
              int64_t index, Batch& batch) {
  check_row(row, index, batch);
  PERCEIVER_ASSERT(batch.axes == data.axes() && std::ssize(row_tokens) == row.count + 1);
  const int64_t n = batch.length;
  std::copy_n(row_tokens.begin(), row.count, batch.tokens.begin() + index * n);
  std::copy_n(row_tokens.begin() + 1, row.count, batch.targets.begin() + index * n);
  data.positions(split, row.document, row.first, row.count, batch.positions.data() + index * n * batch.axes);
  finish_row(row, index, batch);
}

Batch micro_batch(const Batch& batch, int64_t index, int64_t count) {
  Batch part;
  micro_batch(batch, index, count, part);
  return part;
}

void micro_batch(const Batch& batch, int64_t index, int64_t count, Batch& part) {
  if (count < 1 || batch.size % count != 0)
    throw_user("a batch of {} examples cannot be split into {} equal micro-batches", batch.size, count);
  PERCEIVER_ASSERT(index >= 0 && index < count);
  const int64_t rows = batch.size / count;
  const auto slice = [&](const std::vector<int32_t>& from, int64_t width, std::vector<int32_t>& to) {
    const auto first = from.begin() + index * rows * width;
    to.assign(first, first + rows * width);
  };
  part.size = rows, part.length = batch.length, part.axes = batch.axes;
  slice(batch.tokens, batch.length, part.tokens);
  slice(batch.targets, batch.length, part.targets);
  slice(batch.positions, batch.length * batch.axes, part.positions);
  slice(batch.lengths, 1, part.lengths);
  part.preceding.clear();
  if (batch.preceding.empty()) return;
  const auto first = batch.preceding.begin() + index * rows;
  part.preceding.assign(first, first + rows);
}

}  // namespace perceiver
