// The caller's own data: documents of token ids, from which the library trains and on which it validates.
//
//   auto data = perceiver::data_in_memory({.vocabulary = 3 + 10}, {.train = sequences, .validation =
//   others});
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "perceiver/export.h"

namespace perceiver {

enum class Split { train, validation, test };

/// What all documents of a data set have in common.
struct DataFormat {
  /// V: ids are below it. 0 is PAD, 1 EOS (end), 2 SOS (start); data are ids 3 to V - 1. 0: the tokenizer's.
  int64_t vocabulary = 0;
  /// Rows that the position table of each axis needs: positions are below them. Empty: one axis, whose
  /// positions count along what the model reads. Else model.position_sizes must be at least these, with
  /// model.position_encoding: absolute.
  std::vector<int64_t> position_sizes = {};
  /// Whether the end of a document is predicted, by EOS. False for documents of fixed length.
  bool ends = true;
  std::string unit = "token";  ///< of "bits per unit", singular; see DataSource::units
  /// "tokens", or that of a tokenizer which made the ids: "text", "image", ... The model then encodes and
  /// decodes files of that kind. The tokenizer also decides the vocabulary (which may be left 0), axes,
  /// end and unit, which must not contradict it.
  std::string modality = "tokens";
  std::string tokenizer =
      {};  ///< as the library serializes it: "bytes" for bytes of text; empty for "tokens"
};

/// Documents in up to three splits, numbered from 0 within each. To be derived from.
///
/// Threads: once training has begun, const members are called from the library's threads, several at a time;
/// they must not change what they return. Errors: what a member throws ends the run and comes out of
/// TrainingRun unchanged. Ids, lengths and positions are checked, and a mistake in them is a `user` error
/// that names document and index.
class PERCEIVER_API DataSource {
 public:
  DataSource() = default;
  DataSource(const DataSource&) = delete;
  DataSource& operator=(const DataSource&) = delete;
  virtual ~DataSource();

  virtual DataFormat format() const = 0;
  /// 0 where there is no such split. Without validation documents the run does not validate.
  virtual int64_t documents(Split split) const = 0;
  /// Ids of a document, without SOS and EOS, which the library adds; at least 1.
  virtual int64_t length(Split split, int64_t document) const = 0;
  /// Writes ids [first, first + count) of a document to `out` [count]; count >= 1.
  virtual void read(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const = 0;

  /// Only if the format has position_sizes: writes the positions of the same ids to `out` [count, axes]. SOS
  /// has 1 on every axis, 0 is padding, so the first one of data is usually 2. By default throws `failure`.
  virtual void positions(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const;
  /// What a document's ids stand for (bytes, pixels), the divisor of bits per unit. By default the length.
  virtual int64_t units(Split split, int64_t document) const;
  /// For messages, e.g. a path. By default "train document 3".
  virtual std::string name(Split split, int64_t document) const;
  /// Identifies the content: a run that is resumed on other data says so and stops. 0: not known; then only
  /// the numbers of documents and ids are compared.
  virtual uint64_t fingerprint() const;
  /// True for documents that are made as they are read: all have the same length, and documents() may be as
  /// large as it likes (2^40). There are no epochs; validation reads eval.max_documents of them, 64 if that
  /// is 0.
  virtual bool generated() const;
};

/// Token ids of documents, each [length], without SOS and EOS.
struct Documents {
  std::vector<std::vector<int32_t>> train, validation = {}, test = {};
};

/// Data in memory, which TrainingRun checks as it reads them.
PERCEIVER_API std::shared_ptr<const DataSource> data_in_memory(const DataFormat& format, Documents documents);

/// Writes all ids of a document to `out` [length], always the same for the same number. Called from several
/// threads at a time.
using WriteDocument = std::function<void(Split split, int64_t document, int32_t* out)>;

/// Documents of one length that are made as they are read, without end, in all splits.
PERCEIVER_API std::shared_ptr<const DataSource> generated_data(const DataFormat& format, int64_t length,
                                                               WriteDocument write);

}  // namespace perceiver
