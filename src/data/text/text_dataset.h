// Text files as documents of UTF-8 bytes.
#pragma once

#include <vector>

#include "data/dataset.h"
#include "data/splits.h"
#include "data/text/text_check.h"
#include "io/mapped_file.h"

namespace perceiver {

/// One file is one document: SOS, its bytes + 3, EOS. Files are checked once when they are opened
/// (text_check.h), stay on disk and are mapped when read; only their paths and sizes are kept in memory.
///
/// Which files, and which split they are in, is decided by list_splits. A split without files of its own is a
/// fraction of `train`:
/// - of its documents if there are several (choose_splits); the choice does not depend on where the folder
/// is.
/// - of its bytes if there is only one document: train first, then validation, then test, each cut moved back
///   to the start of a UTF-8 character.
class TextDataset final : public Dataset {
 public:
  /// Files of folders that are not text are skipped. Throws `user` as list_splits does, for a file named
  /// itself that is not text, and if the fractions leave a split empty.
  static std::unique_ptr<TextDataset> open(const DataConfig& config);

  int64_t vocabulary() const override;
  std::string tokenizer() const override;
  std::string unit() const override { return "byte"; }
  int64_t documents(Split split) const override { return static_cast<int64_t>(of(split).size()); }
  std::string document_name(Split split, int64_t document) const override;
  int64_t document_length(Split split, int64_t document) const override;
  int64_t scored_units(Split split, int64_t document) const override {
    return document_bytes(split, document);
  }
  int64_t words(Split split, int64_t document) const override;
  void read(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const override;

  std::vector<std::string> notes() const override { return notes_; }
  std::vector<FileRemark> skipped() const override { return skipped_; }
  std::vector<FileRemark> repaired() const override { return repaired_; }
  /// Of the bytes that were checked (text_check.h), the sizes, and the split and order of the documents.
  uint64_t fingerprint() const override;

  /// Length of a document in bytes, which is its tokens without SOS and EOS.
  int64_t document_bytes(Split split, int64_t document) const;
  const FileSet& files() const { return files_; }

  /// Bytes [first, last) of a file.
  struct Document {
    int64_t file;
    int64_t first;
    int64_t last;
  };

 private:
  TextDataset() = default;
  const std::vector<Document>& of(Split split) const { return documents_[static_cast<int>(split)]; }
  std::vector<Document>& of(Split split) { return documents_[static_cast<int>(split)]; }
  const Document& at(Split split, int64_t document) const;
  void add_files(Split split, TextEncoding encoding, bool strict, SplitListing& listing);
  void split_train(const std::vector<ListedFile>& files, uint64_t seed, double validation, double test);
  void split_bytes(const Document& whole, double validation, double test);
  int64_t character_start(const Document& document, int64_t offset) const;

  /// What a file holds, by its number in `files_`.
  struct Text {
    int64_t first, last;
    uint64_t checksum;
  };

  FileSet files_;
  std::vector<Text> texts_;
  std::vector<Document> documents_[split_count];
  std::vector<std::string> notes_;
  std::vector<FileRemark> skipped_, repaired_;
};

}  // namespace perceiver
