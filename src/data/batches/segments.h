// Evaluation of models that remember earlier segments: every document from its start, segment by segment.
#pragma once

#include <vector>

#include "data/batches/windows.h"

namespace perceiver {

/// Counts in tokens.
struct SegmentOptions {
  int64_t length = 0;         ///< N, of a segment; less if no document is as long
  int64_t rows = 1;           ///< documents read beside each other; fewer if there are fewer
  int64_t max_documents = 0;  ///< as in WindowOptions
  int64_t share = 0;          ///< which of the `shares` to deliver
  int64_t shares = 1;         ///< documents are dealt to this many in turn
};

/// Iterates over the segments of a split: each row of the batches reads one document after the other, N
/// tokens at a time from its first on, so that every target is scored once, with all of the document before
/// it either in its segment or in memory. Rows start with their first token (Batch::preceding of them came
/// before it); a row without a document is empty.
class DocumentSegments {
 public:
  /// Throws `user` for a split without documents. `data` must outlive this.
  DocumentSegments(const Dataset& data, Split split, const SegmentOptions& options);

  /// B, rows of every batch; 0 if this share has no documents.
  int64_t rows() const { return static_cast<int64_t>(readings_.size()); }
  /// The next batch; false if there are none left. Of the targets of row b the last scored[b] up to its
  /// length are scored. Reuses the storage of `out`.
  bool next(WindowBatch& out);

  int64_t documents() const { return documents_; }  ///< of all shares, as the following
  int64_t targets() const { return targets_; }
  int64_t units() const { return units_; }
  int64_t words() const { return words_; }
  int64_t share_targets() const { return share_targets_; }

 private:
  struct Reading {
    int64_t document = -1;  ///< -1: none
    int64_t next = 0;       ///< first token of the next segment
  };
  bool take_document(Reading& reading);
  void read_segment(Reading& reading, int64_t row, WindowBatch& out) const;

  const Dataset& data_;
  Split split_;
  SegmentOptions options_;
  int64_t documents_ = 0, targets_ = 0, units_ = 0, words_ = 0, share_targets_ = 0;
  int64_t next_document_ = 0;
  std::vector<Reading> readings_;
};

}  // namespace perceiver
