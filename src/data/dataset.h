// What every kind of data looks like to the loader and to evaluation: documents of tokens, in three splits.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "perceiver/config.h"

namespace perceiver {

enum class Split { train, validation, test };
inline constexpr int split_count = 3;

/// "train", "validation" or "test".
std::string_view split_name(Split split);

/// Documents are token sequences SOS, data …, EOS, numbered from 0 within a split. Reading is const and
/// thread-safe.
class Dataset {
 public:
  virtual ~Dataset() = default;

  /// V, special tokens included.
  virtual int64_t vocabulary() const = 0;
  /// A, position axes.
  virtual int64_t axes() const { return 1; }
  /// Rows that each axis' position table needs, [A]; empty where positions count from the start of the row.
  virtual std::vector<int64_t> position_sizes() const { return {}; }
  /// "text", "image", … (data/modality.h), or "copy".
  virtual std::string modality() const { return "text"; }
  /// The tokenizer as `restore_modality` (of text: `make_tokenizer`) reads it.
  virtual std::string tokenizer() const = 0;
  /// What `scored_units` counts, singular, e.g. "byte": reports say "bits per <unit>".
  virtual std::string unit() const = 0;
  /// True for data made on the fly: all documents have the same length, and evaluation must choose how many
  /// to take.
  virtual bool unbounded() const { return false; }
  /// Fewest columns N of a row for the task to be possible at all.
  virtual int64_t minimum_context() const { return 1; }

  /// Number of documents; 0 if the split is absent.
  virtual int64_t documents(Split split) const = 0;
  /// What to call a document in messages, e.g. its path.
  virtual std::string document_name(Split split, int64_t document) const = 0;
  /// L: tokens, SOS and EOS included; at least 2.
  virtual int64_t document_length(Split split, int64_t document) const = 0;
  /// Index in the document of the first token that is to be predicted: targets are [first_target, L). SOS
  /// never is.
  virtual int64_t first_target(Split, int64_t) const { return 1; }
  /// Units (bytes, pixel channels …) that the targets stand for; what bits per unit divides by.
  virtual int64_t scored_units(Split split, int64_t document) const = 0;
  /// Words, separated by white space, of a document of text; 0 of other data.
  virtual int64_t words(Split, int64_t) const { return 0; }
  /// Copies tokens [first, first + count) of a document to `out` [count].
  virtual void read(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const = 0;
  /// Positions, [count, A], of a row that starts with token `first` of a document. By default one axis that
  /// counts from 1 at the start of the row, wherever in the document that is, so that a table of N + 2 rows
  /// always suffices.
  virtual void positions(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const;

  /// True if training crops are to be varied by `augment`; only where positions count from the start of the
  /// row.
  virtual bool augments() const { return false; }
  /// Varies the tokens of a crop, SOS and EOS included where it has them; their number may change.
  virtual void augment(std::vector<int32_t>&, RandomStream&) const {}
  /// What a user should know about the data once they are open, one line each, e.g. that files were skipped.
  virtual std::vector<std::string> notes() const { return {}; }
};

/// Opens the data that `config` names; adding a kind of data is its own file and one line in a table.
std::unique_ptr<Dataset> open_dataset(const DataConfig& config);

/// Throws if `model` cannot be trained or evaluated on `data`: vocabulary, axes, context length.
void check_fits(const Dataset& data, const ModelConfig& model);

/// M: the trailing positions of a row that a model predicts, latents / latents_per_position; all of them for
/// a Transformer.
int64_t predicted_positions(const ModelConfig& model);

}  // namespace perceiver
