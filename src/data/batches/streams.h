// Training batches of models that remember earlier segments: the data cut into streams.
#pragma once

#include <cstdint>
#include <vector>

#include "data/batches/example_share.h"
#include "data/dataset.h"
#include "model/batch.h"

namespace perceiver {

/// The documents of a split, one after the other, as one sequence of tokens SOS … EOS SOS … EOS, from which
/// any piece can be read.
class JoinedDocuments {
 public:
  /// `data` must outlive this. Throws `user` for a split without documents.
  JoinedDocuments(const Dataset& data, Split split);

  int64_t tokens() const { return tokens_; }
  /// Tokens [first, first + count), and for each whether it is predicted: not SOS, nor what is given at the
  /// start of a document (Dataset::first_target).
  void read(int64_t first, int64_t count, int32_t* tokens, uint8_t* predicted) const;

 private:
  int64_t document_at(int64_t token) const;
  int64_t start_of(int64_t document) const;

  const Dataset& data_;
  Split split_;
  int64_t tokens_ = 0;
  int64_t same_length_ = 0;      ///< of all documents; 0: see `starts_`
  std::vector<int64_t> starts_;  ///< of each document
};

/// The split as B streams of equal length S = tokens / B, of which a step reads the next N tokens each (Dai
/// et al. 2019): in step s, row k has tokens [k S + o, k S + o + N) with o = N (s mod P) and the tokens after
/// them as targets, P = ceil((S - 1) / N). The last segment of a pass is shorter; then the streams start
/// again. What follows a token in the data is thus in the same row of the next step, and a batch depends only
/// on the data and on s. Fewer than B tokens at the end of the data are left out.
class StreamSampler {
 public:
  /// Throws `user` if the split has too few tokens. `data` must outlive this.
  StreamSampler(const Dataset& data, Split split, int64_t streams, int64_t columns);

  /// P: steps of a pass over the data.
  int64_t steps() const { return (length_ - 1 + columns_ - 1) / columns_; }
  /// The rows of `share` of step `step`; Batch::preceding is o. The storage of `batch` is reused.
  void fill(int64_t step, const ExampleShare& share, Batch& batch) const;

 private:
  JoinedDocuments sequence_;
  int64_t axes_, columns_, length_;
};

}  // namespace perceiver
