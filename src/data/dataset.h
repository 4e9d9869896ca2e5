// The interface of all data for the loader and for evaluation: documents of tokens in three splits.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/document_weights.h"
#include "data/file_remark.h"
#include "perceiver/config.h"
#include "perceiver/dataset.h"
#include "perceiver/experimental/random.h"

namespace perceiver {

inline constexpr int split_count = 3;

/// "train", "validation" or "test".
std::string_view split_name(Split split);

/// Documents are token sequences SOS, data …, EOS, numbered from 0 within a split. Reading is thread-safe.
class Dataset {
 public:
  virtual ~Dataset() = default;

  /// V, including special tokens.
  virtual int64_t vocabulary() const = 0;
  /// A, the number of position axes.
  virtual int64_t axes() const { return 1; }
  /// Rows that the position table of each axis needs, [A]; empty if positions count from the start of the
  /// row.
  virtual std::vector<int64_t> position_sizes() const { return {}; }
  /// "text", "image", … (data/modality.h), or "copy".
  virtual std::string modality() const { return "text"; }
  /// The tokenizer, in the form that `restore_modality` (for text, `make_tokenizer`) reads.
  virtual std::string tokenizer() const = 0;
  /// The unit that `scored_units` counts, singular, e.g. "byte": reports say "bits per <unit>".
  virtual std::string unit() const = 0;
  /// True for data generated on the fly: all documents have the same length, and evaluation must choose how
  /// many to use.
  virtual bool unbounded() const { return false; }
  /// Minimum columns N of a row for the task to be possible.
  virtual int64_t minimum_context() const { return 1; }

  /// Number of documents; 0 if the split is absent.
  virtual int64_t documents(Split split) const = 0;
  /// The name of a document in messages, e.g. its path.
  virtual std::string document_name(Split split, int64_t document) const = 0;
  /// L: tokens, including SOS and EOS; at least 2.
  virtual int64_t document_length(Split split, int64_t document) const = 0;
  /// Index in the document of the first token to predict: targets are [first_target, L). Never SOS.
  virtual int64_t first_target(Split, int64_t) const { return 1; }
  /// Units (bytes, pixel channels …) that the targets represent: the divisor of bits per unit.
  virtual int64_t scored_units(Split split, int64_t document) const = 0;
  /// Words, separated by white space, of a text document; 0 for other data.
  virtual int64_t words(Split, int64_t) const { return 0; }
  /// The lengths of all documents of a split, added up.
  virtual int64_t tokens(Split split) const;
  /// The weights max(least, targets) of the documents of a split, which must outlive them.
  virtual std::unique_ptr<DocumentWeights> weights(Split split, int64_t least) const;
  /// Copies tokens [first, first + count) of a document to `out` [count].
  virtual void read(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const = 0;
  /// Positions, [count, A], of a row that starts with token `first` of a document. By default one axis that
  /// counts from 1 at the start of the row, not of the document: a table of N + 2 rows is always enough.
  virtual void positions(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const;

  /// True if training crops should go through `augment`; only if positions count from the start of the row.
  virtual bool augments() const { return false; }
  /// Augments the tokens of a crop, including SOS and EOS if it has them; their number may change.
  virtual void augment(std::vector<int32_t>&, RandomStream&) const {}
  /// If training is to take half of the crops from documents' mirror images: [data tokens of each document],
  /// the place in the document of what is at each place of its mirror image, both without SOS. Else empty.
  virtual std::span<const int32_t> mirror() const { return {}; }
  /// Messages for the user about the opened data, one line each, e.g. that files were skipped.
  virtual std::vector<std::string> notes() const { return {}; }
  /// Source files that were left out, each once, with the reason.
  virtual std::vector<FileRemark> skipped() const { return {}; }
  /// Source files that were read after a repair, one entry for each repair.
  virtual std::vector<FileRemark> repaired() const { return {}; }
  /// Identifies the content and the split of the data: the same documents in the same order give the same
  /// value wherever they lie. 0 if the data is generated.
  virtual uint64_t fingerprint() const { return 0; }
};

/// Opens the data that `config` names.
std::unique_ptr<Dataset> open_dataset(const DataConfig& config);

/// Throws if `model` cannot be trained or evaluated on `data`: vocabulary, axes, context length.
void check_fits(const Dataset& data, const ModelConfig& model);

/// M: the number of trailing positions of a row that a model predicts, latents / latents_per_position; all of
/// them for a transformer.
int64_t predicted_positions(const ModelConfig& model);

}  // namespace perceiver
