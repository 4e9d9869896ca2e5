// Fills the rows of a batch from documents.
#pragma once

#include <span>

#include "data/dataset.h"
#include "model/batch.h"

namespace perceiver {

/// A span of a document that becomes a row: the inputs are tokens [first, first + count), the targets tokens
/// [first + 1, first + count + 1), all inside the document; 1 ≤ count ≤ N. Only the last `scored` targets, 0
/// to count, are kept.
struct Row {
  int64_t document = 0;
  int64_t first = 0;
  int64_t count = 0;
  int64_t scored = 0;
};

/// Writes row `index` of `batch`, which must already have its size: tokens, targets (PAD where not scored),
/// positions and length; PAD and position 0 beyond `row.count`.
void fill_row(const Dataset& data, Split split, const Row& row, int64_t index, Batch& batch);

/// The same from `row.count` + 1 given tokens, at the positions that the document's own would have.
void fill_row(const Dataset& data, Split split, std::span<const int32_t> row_tokens, const Row& row,
              int64_t index, Batch& batch);

/// Part `index` of `count` equal parts of a batch: rows [index, index + 1) · B / count. Throws if B is not a
/// multiple of `count`. The second form reuses the storage of `part`.
Batch micro_batch(const Batch& batch, int64_t index, int64_t count);
void micro_batch(const Batch& batch, int64_t index, int64_t count, Batch& part);

}  // namespace perceiver
