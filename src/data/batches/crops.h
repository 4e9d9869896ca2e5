// Samples the crops of documents that a training step sees.
#pragma once

#include <memory>

#include "data/batches/example_share.h"
#include "data/batches/rows.h"
#include "perceiver/config.h"
#include "perceiver/experimental/random.h"

namespace perceiver {

/// Training crops (docs/model.md section 4; same semantics as the authors' data pipeline). A document has L
/// tokens; [f, L) are targets (f = 1 unless the dataset says otherwise). A crop is defined by its end e, one
/// past its last target, uniform over the integers
///
///     min(f + M, L) ≤ e ≤ L,      first = max(0, e − 1 − N),      count = e − 1 − first ≤ N
///
/// with inputs [first, e − 1) and targets [first + 1, e). The crops of a long document thus start at any
/// token, and those at its start are shorter than N. The shortest has exactly the first M targets, which
/// keeps early targets from being trained more often; a document of at most M targets is used whole.
///
/// That is Crops::uniform, under which the first and the last target of a document are in one crop each,
/// those in its middle in M: of documents a few crops long, the beginnings and the ends are hardly trained.
/// Under Crops::even the crop at the beginning and the one at the end are M times as likely as another, so
/// that no target is trained less often than those in the middle of a long document, and none more than three
/// times as often.
///
/// A crop trains min(M, T) of the T = L − f targets of its document. Documents are chosen with probability
/// proportional to max(M, T), so the targets of a document are trained in proportion to
/// min(M, T) · max(M, T) / T = M: on average over its document, every target is trained equally often, in
/// long and short documents alike, under either.
///
/// Example k of step s depends only on (seed, s, k): it uses RandomStream(seed, batch, s, k).
///
/// If `Dataset::augments`, crops are augmented with RandomStream(seed, augmentation, s, k). A crop that grows
/// beyond N inputs is cut at its end; one that ends up with fewer targets is scored on those. If the data
/// have a `Dataset::mirror`, that stream decides which half of the crops are of mirror images.
class CropSampler {
 public:
  /// `columns` N, `predicted` M ≤ N, in tokens. Throws if the split has no documents. `data` must outlive
  /// this.
  CropSampler(const Dataset& data, Split split, int64_t columns, int64_t predicted,
              Crops crops = Crops::uniform);

  /// The crop of example `example` at step `step`.
  Row crop(uint64_t seed, int64_t step, int64_t example) const;
  /// The examples of `share` of step `step`, rows of N columns. `batch` is overwritten; its storage is
  /// reused.
  void fill(uint64_t seed, int64_t step, const ExampleShare& share, Batch& batch) const;

 private:
  int64_t choose_document(RandomStream& random) const;
  int64_t choose_end(RandomStream& random, int64_t first_end, int64_t length) const;
  void fill_augmented(Row row, RandomStream& random, int64_t index, Batch& batch) const;
  void fill_mirrored(const Row& row, int64_t index, Batch& batch) const;

  const Dataset& data_;
  Split split_;
  int64_t columns_;
  int64_t predicted_;
  Crops crops_;
  std::unique_ptr<DocumentWeights> weights_;  ///< null if all documents are equal
};

}  // namespace perceiver
