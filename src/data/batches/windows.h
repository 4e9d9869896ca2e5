// Evaluation windows: every target of every document once, with as much context as possible.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "data/batches/rows.h"

namespace perceiver {

/// Counts in tokens.
struct WindowOptions {
  int64_t context = 0;        ///< N, columns
  int64_t latents = 0;        ///< M, positions predicted at once, 1 to N
  int64_t stride = 0;         ///< S, targets per window, 1 to M; 0 = M
  int64_t batch = 1;          ///< windows per batch
  int64_t max_documents = 0;  ///< only the first ones; 0 = all, or 64 of data generated on the fly
  int64_t share = 0;          ///< which of the `shares` to deliver
  int64_t shares = 1;         ///< batches are dealt to this many in turn; they are smaller if that is even
};

/// Some windows, and which targets they score.
struct WindowBatch {
  Batch batch;                     ///< rows of N columns; targets that are not scored are PAD
  std::vector<int64_t> documents;  ///< [B], within the split
  std::vector<int64_t> scored;     ///< [B], number of trailing targets of the row that are scored, 1 to S
  /// [B], index in its document of the first scored target (SOS has index 0).
  std::vector<int64_t> first_targets;
};

/// The documents that an evaluation of `wanted` documents reads, as WindowOptions::max_documents says. Throws
/// `user` if the split has none.
int64_t evaluated_documents(const Dataset& data, Split split, int64_t wanted);

/// Iterates over the windows of a split in order (docs/model.md section 5). The targets [f, L) of a document
/// are cut into blocks of S, [t, u) with u = min(t + S, L). The window of a block is the row of inputs
/// [max(0, u − 1 − N), u − 1), whose last u − t targets are scored: each target once, predicted from all
/// tokens before it, or from at least the N − S + 1 nearest. S = 1 is the exact sliding window.
class Windows {
 public:
  static constexpr int64_t unbounded_documents = 64;

  /// Throws if the options contradict each other or the split has no documents. `data` must outlive this.
  Windows(const Dataset& data, Split split, const WindowOptions& options);

  /// The next batch of this share, `options.batch` windows or fewer; false if there are none left. Reuses the
  /// storage of `out`.
  bool next(WindowBatch& out);
  /// Back to the first window.
  void restart();

  /// Batches of the largest share; another may have one less.
  int64_t rounds() const;
  /// Targets of this share.
  int64_t share_targets() const { return share_targets_; }
  /// Totals over all windows.
  int64_t documents() const { return documents_; }
  int64_t windows() const { return windows_; }
  int64_t targets() const { return targets_; }
  /// Units (`Dataset::unit`) that the targets represent.
  int64_t units() const { return units_; }
  /// Words in the documents; 0 if the data is not text.
  int64_t words() const { return words_; }

 private:
  Row next_row();
  /// Passes over batches of other shares; the rows of the next batch, 0 at the end.
  int64_t find_batch();
  int64_t count_share_targets();

  const Dataset& data_;
  Split split_;
  WindowOptions options_;
  int64_t documents_ = 0;
  int64_t windows_ = 0;
  int64_t targets_ = 0;
  int64_t units_ = 0;
  int64_t words_ = 0;
  int64_t share_targets_ = 0;

  int64_t document_ = 0;  ///< of the next window
  int64_t target_ = 0;    ///< first target of the next window
  int64_t delivered_ = 0;
};

/// Losses are reported by the position of the target in these buckets: [0, 512), then by powers of two up to
/// 131072, then the rest.
inline constexpr std::array<int64_t, 10> position_bucket_starts = {0,    512,   1024,  2048,  4096,
                                                                   8192, 16384, 32768, 65536, 131072};
/// The bucket of a target, given its index ≥ 0 in the document.
int64_t position_bucket(int64_t target);
/// "0-511", …, "131072-".
std::string position_bucket_name(int64_t bucket);

}  // namespace perceiver
