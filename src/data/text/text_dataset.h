// Text files as documents of UTF-8 bytes.
#pragma once

#include <vector>

#include "data/dataset.h"
#include "io/file_list.h"
#include "io/mapped_file.h"

namespace perceiver {

/// One file is one document: SOS, its bytes + 3, EOS. Files stay on disk and are mapped when read; only their
/// paths and sizes are kept in memory.
///
/// Each entry of `train`, `validation` and `test` is a file or a folder. A folder stands for every regular
/// file below it, sorted by path; hidden files and folders are skipped, symbolic links to folders are not
/// followed. Empty files are skipped; a file named twice is used once. A split without its own paths is a
/// fraction of `train`:
/// - of its documents if there are several: they are ranked by a hash of the seed and their path below the
///   named folder; the first round(fraction × documents) go to validation, the next to test, at least one
///   each if the fraction is positive. The choice does not depend on where the folder is.
/// - of its bytes if there is only one document: train first, then validation, then test, each cut moved back
///   to the start of a UTF-8 character.
class TextDataset final : public Dataset {
 public:
  /// Throws if a path is missing or unreadable, a named split has no bytes, a file is in two splits, or the
  /// fractions are outside [0, 1) or leave a split empty.
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
  void split_train(const std::vector<ListedFile>& files, uint64_t seed, double validation, double test);
  void split_bytes(const Document& whole, double validation, double test);
  int64_t character_start(const Document& document, int64_t offset) const;

  FileSet files_;
  std::vector<Document> documents_[split_count];
};

}  // namespace perceiver
