// Which stretches of the documents a training step sees.
#pragma once

#include <vector>

#include "base/random.h"
#include "data/batches/rows.h"

namespace perceiver {

/// Training crops (MODEL.md section 4; the semantics of the authors' data pipeline). A document has L tokens
/// of which [f, L) are targets (f = 1 but for data sets that say otherwise). A crop is told by its end e, one
/// past its last target, uniform over the whole numbers
///
///     min(f + M, L) ≤ e ≤ L,      first = max(0, e − 1 − N),      count = e − 1 − first ≤ N
///
/// with inputs [first, e − 1) and targets [first + 1, e). So the crops of a long document slide one token at
/// a time, those at its beginning being shorter than N; the smallest holds exactly the first M targets, so
/// that early targets are not trained over and over; a document of at most M targets is used whole.
///
/// A crop trains min(M, T) of its document's T = L − f targets. Documents are chosen with probability in
/// proportion to max(M, T), so that a document's targets are trained min(M, T) · max(M, T) / T = M times in
/// proportion: every target of the data equally often, averaged over its document, in long documents and
/// short ones alike.
///
/// Example k of step s is a function of (seed, s, k) alone: random numbers RandomStream(seed, batch, s, k).
///
/// Data that say so (`Dataset::augments`) have their crops varied, by RandomStream(seed, augmentation, s, k).
/// A crop that has grown past N inputs loses its end; one whose targets have become fewer is scored on those.
class CropSampler {
 public:
  /// `columns` N, `predicted` M ≤ N, in tokens. Throws if the split has no documents. `data` must outlive
  /// this.
  CropSampler(const Dataset& data, Split split, int64_t columns, int64_t predicted);

  /// The crop of example `example` at step `step`.
  Row crop(uint64_t seed, int64_t step, int64_t example) const;
  /// The `size` examples of step `step`, rows of N columns. `batch` is overwritten; its storage is reused.
  void fill(uint64_t seed, int64_t step, int64_t size, Batch& batch) const;

 private:
  int64_t choose_document(RandomStream& random) const;
  void fill_augmented(Row row, RandomStream& random, int64_t index, Batch& batch) const;

  const Dataset& data_;
  Split split_;
  int64_t columns_;
  int64_t predicted_;
  std::vector<uint64_t>
      weight_ends_;  ///< running sums of the documents' weights; empty if all weigh the same
};

}  // namespace perceiver
